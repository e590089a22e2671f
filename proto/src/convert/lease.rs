//! Policies, renewals, grants and denials, and the hold that stands in for them.

use std::time::Duration;

use crate::convert::field::{
    Parsed, WireError, checked_list, cluster, list, mirrored, nanos, part, placement, present,
};
use crate::convert::gate::gate_nonce;
use crate::epoch::{Epoch, Generation};
use crate::gate::MOST_GATES;
use crate::wire::v1;
use crate::{Denial, Grant, HoldAnswer, HoldRequest, Policy, Renewal, Timing};

mirrored!(role, Role, [Holder, Promoting, Standby, Fenced, Unknown]);
mirrored!(on_silence, OnSilence, [Stop, Continue]);
mirrored!(fencing, Fencing, [None, SelfFence, Gate, Storage, External]);
mirrored!(denial_reason, DenialReason, [Superseded, NotYours, NotNow]);

impl From<Timing> for v1::Timing {
    fn from(timing: Timing) -> Self {
        let Timing { renew, rpc, ttl, hold, grace, stop, clock_rate_error_ppm, suspect, unreachable } =
            timing;
        v1::Timing {
            renew_nanos: nanos(renew),
            rpc_nanos: nanos(rpc),
            ttl_nanos: nanos(ttl),
            hold_nanos: nanos(hold),
            grace_nanos: nanos(grace),
            stop_nanos: nanos(stop),
            clock_rate_error_ppm,
            suspect_nanos: nanos(suspect),
            unreachable_nanos: nanos(unreachable),
        }
    }
}

impl From<v1::Timing> for Timing {
    fn from(timing: v1::Timing) -> Self {
        Timing {
            renew: Duration::from_nanos(timing.renew_nanos),
            rpc: Duration::from_nanos(timing.rpc_nanos),
            ttl: Duration::from_nanos(timing.ttl_nanos),
            hold: Duration::from_nanos(timing.hold_nanos),
            grace: Duration::from_nanos(timing.grace_nanos),
            stop: Duration::from_nanos(timing.stop_nanos),
            clock_rate_error_ppm: timing.clock_rate_error_ppm,
            suspect: Duration::from_nanos(timing.suspect_nanos),
            unreachable: Duration::from_nanos(timing.unreachable_nanos),
        }
    }
}

impl From<Policy> for v1::Policy {
    fn from(policy: Policy) -> Self {
        let Policy { generation, timing, on_silence, fencing } = policy;
        v1::Policy {
            generation: generation.0,
            timing: Some(timing.into()),
            on_silence: v1::OnSilence::from(on_silence).into(),
            fencing: v1::Fencing::from(fencing).into(),
        }
    }
}

impl TryFrom<v1::Policy> for Policy {
    type Error = WireError;
    fn try_from(policy: v1::Policy) -> Parsed<Self> {
        Ok(Policy {
            generation: Generation(policy.generation),
            timing: present(policy.timing, "timing")?.into(),
            on_silence: on_silence(policy.on_silence, "on_silence")?,
            fencing: fencing(policy.fencing, "fencing")?,
        })
    }
}

impl From<Renewal> for v1::Renewal {
    fn from(renewal: Renewal) -> Self {
        let Renewal { placement, epoch, echo, gates } = renewal;
        v1::Renewal {
            placement: placement.to_string(),
            epoch: epoch.0,
            echo_generation: echo.0,
            gates: gates.into_iter().map(String::from).collect(),
        }
    }
}

impl TryFrom<v1::Renewal> for Renewal {
    type Error = WireError;
    fn try_from(renewal: v1::Renewal) -> Parsed<Self> {
        Ok(Renewal {
            placement: placement(&renewal.placement, "placement")?,
            epoch: Epoch(renewal.epoch),
            echo: Generation(renewal.echo_generation),
            gates: checked_list(renewal.gates, MOST_GATES, "gates", gate_nonce)?,
        })
    }
}

impl From<Grant> for v1::Grant {
    fn from(grant: Grant) -> Self {
        let Grant { placement, epoch, policy, tickets } = grant;
        v1::Grant {
            placement: placement.to_string(),
            epoch: epoch.0,
            policy: Some(policy.into()),
            tickets: tickets.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Grant> for Grant {
    type Error = WireError;
    fn try_from(grant: v1::Grant) -> Parsed<Self> {
        Ok(Grant {
            placement: placement(&grant.placement, "placement")?,
            epoch: Epoch(grant.epoch),
            policy: part(grant.policy, "policy")?,
            tickets: list(grant.tickets, MOST_GATES, "tickets")?,
        })
    }
}

impl From<Denial> for v1::Denial {
    fn from(denial: Denial) -> Self {
        let Denial { placement, epoch, holder, reason } = denial;
        v1::Denial {
            placement: placement.to_string(),
            epoch: epoch.0,
            holder: holder.map(|name| name.to_string()),
            reason: v1::DenialReason::from(reason).into(),
        }
    }
}

impl TryFrom<v1::Denial> for Denial {
    type Error = WireError;
    fn try_from(denial: v1::Denial) -> Parsed<Self> {
        Ok(Denial {
            placement: placement(&denial.placement, "placement")?,
            epoch: Epoch(denial.epoch),
            holder: denial.holder.map(|name| cluster(&name, "holder")).transpose()?,
            reason: denial_reason(denial.reason, "reason")?,
        })
    }
}

impl From<HoldRequest> for v1::HoldRequest {
    fn from(request: HoldRequest) -> Self {
        let HoldRequest { holder, placement, epoch, stop, gates } = request;
        v1::HoldRequest {
            holder: holder.to_string(),
            placement: placement.to_string(),
            epoch: epoch.0,
            stop_nanos: nanos(stop),
            gates: gates.into_iter().map(String::from).collect(),
        }
    }
}

impl TryFrom<v1::HoldRequest> for HoldRequest {
    type Error = WireError;
    fn try_from(request: v1::HoldRequest) -> Parsed<Self> {
        Ok(HoldRequest {
            holder: cluster(&request.holder, "hold.holder")?,
            placement: placement(&request.placement, "hold.placement")?,
            epoch: Epoch(request.epoch),
            stop: Duration::from_nanos(request.stop_nanos),
            gates: checked_list(request.gates, MOST_GATES, "hold.gates", gate_nonce)?,
        })
    }
}

impl From<HoldAnswer> for v1::HoldResponse {
    fn from(answer: HoldAnswer) -> Self {
        use v1::hold_response::{Answer, Promised, Refused};
        let answer = match answer {
            HoldAnswer::Promised { hold, tickets } => Answer::Promised(Promised {
                hold_nanos: nanos(hold),
                tickets: tickets.into_iter().map(Into::into).collect(),
            }),
            HoldAnswer::Refused { epoch_seen } => Answer::Refused(Refused { epoch_seen: epoch_seen.0 }),
        };
        v1::HoldResponse { answer: Some(answer) }
    }
}

impl TryFrom<v1::HoldResponse> for HoldAnswer {
    type Error = WireError;
    fn try_from(response: v1::HoldResponse) -> Parsed<Self> {
        use v1::hold_response::Answer;
        Ok(match present(response.answer, "hold.answer")? {
            Answer::Promised(promised) => HoldAnswer::Promised {
                hold: Duration::from_nanos(promised.hold_nanos),
                tickets: list(promised.tickets, MOST_GATES, "hold.tickets")?,
            },
            Answer::Refused(refused) => HoldAnswer::Refused { epoch_seen: Epoch(refused.epoch_seen) },
        })
    }
}
