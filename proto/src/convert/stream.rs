//! The two envelopes of the stream, and the heartbeat and its reply.

use std::time::Duration;

use crate::clock::{Mark, Moment};
use crate::convert::field::{
    MOST_PLACEMENTS, Parsed, WireError, Within, cluster, list, mirrored, nanos, placement, present, text,
};
use crate::convert::lease::role;
use crate::epoch::{Epoch, Nonce, Term};
use crate::heartbeat::Known;
use crate::wire::v1;
use crate::{FromAgent, FromHub, Heartbeat, Hello, PathState, Reply};

mirrored!(path_kind, PathKind, [PeerAgent, ApiServer, Witness]);

impl From<FromAgent> for v1::AgentMessage {
    fn from(message: FromAgent) -> Self {
        use v1::agent_message::Body;
        let body = match message {
            FromAgent::Hello(hello) => Body::Hello(hello.into()),
            FromAgent::Heartbeat(heartbeat) => Body::Heartbeat(heartbeat.into()),
            FromAgent::Report(report) => Body::Report(report.into()),
            FromAgent::Acknowledgement(acknowledgement) => Body::Acknowledgement(acknowledgement.into()),
        };
        v1::AgentMessage { body: Some(body) }
    }
}

impl TryFrom<v1::AgentMessage> for FromAgent {
    type Error = WireError;
    fn try_from(message: v1::AgentMessage) -> Parsed<Self> {
        use v1::agent_message::Body;
        Ok(match present(message.body, "agent message")? {
            Body::Hello(hello) => FromAgent::Hello(hello.try_into().within("hello")?),
            Body::Heartbeat(heartbeat) => FromAgent::Heartbeat(heartbeat.try_into().within("heartbeat")?),
            Body::Report(report) => FromAgent::Report(report.try_into().within("report")?),
            Body::Acknowledgement(acknowledgement) => {
                FromAgent::Acknowledgement(acknowledgement.try_into().within("acknowledgement")?)
            }
        })
    }
}

impl From<FromHub> for v1::HubMessage {
    fn from(message: FromHub) -> Self {
        use v1::hub_message::Body;
        let body = match message {
            FromHub::Reply(reply) => Body::Reply(reply.into()),
            FromHub::Assignment(assignment) => Body::Assignment((*assignment).into()),
            FromHub::Unassign(placement) => Body::Unassign(v1::Unassign { placement: placement.to_string() }),
            FromHub::Command(command) => Body::Command((*command).into()),
        };
        v1::HubMessage { body: Some(body) }
    }
}

impl TryFrom<v1::HubMessage> for FromHub {
    type Error = WireError;
    fn try_from(message: v1::HubMessage) -> Parsed<Self> {
        use v1::hub_message::Body;
        Ok(match present(message.body, "hub message")? {
            Body::Reply(reply) => FromHub::Reply(reply.try_into().within("reply")?),
            Body::Assignment(assignment) => {
                FromHub::Assignment(Box::new(assignment.try_into().within("assignment")?))
            }
            Body::Unassign(unassign) => {
                FromHub::Unassign(placement(&unassign.placement, "unassign.placement")?)
            }
            Body::Command(command) => FromHub::Command(Box::new(command.try_into().within("command")?)),
        })
    }
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        let Hello { cluster, version, known } = hello;
        v1::Hello {
            cluster: cluster.to_string(),
            version,
            known: known.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = WireError;
    fn try_from(hello: v1::Hello) -> Parsed<Self> {
        Ok(Hello {
            cluster: cluster(&hello.cluster, "cluster")?,
            version: text(hello.version, "version")?,
            known: list(hello.known, MOST_PLACEMENTS, "known")?,
        })
    }
}

impl From<Known> for v1::Known {
    fn from(known: Known) -> Self {
        let Known { placement, epoch, role } = known;
        v1::Known { placement: placement.to_string(), epoch: epoch.0, role: v1::Role::from(role).into() }
    }
}

impl TryFrom<v1::Known> for Known {
    type Error = WireError;
    fn try_from(known: v1::Known) -> Parsed<Self> {
        Ok(Known {
            placement: placement(&known.placement, "placement")?,
            epoch: Epoch(known.epoch),
            role: role(known.role, "role")?,
        })
    }
}

impl From<Heartbeat> for v1::Heartbeat {
    fn from(heartbeat: Heartbeat) -> Self {
        let Heartbeat { cluster, nonce, api_write_age, renewals, paths } = heartbeat;
        v1::Heartbeat {
            cluster: cluster.to_string(),
            nonce: nonce.0,
            api_write_age_nanos: api_write_age.map(nanos),
            renewals: renewals.into_iter().map(Into::into).collect(),
            paths: paths.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Heartbeat> for Heartbeat {
    type Error = WireError;
    fn try_from(heartbeat: v1::Heartbeat) -> Parsed<Self> {
        Ok(Heartbeat {
            cluster: cluster(&heartbeat.cluster, "cluster")?,
            nonce: Nonce(heartbeat.nonce),
            api_write_age: heartbeat.api_write_age_nanos.map(Duration::from_nanos),
            renewals: list(heartbeat.renewals, MOST_PLACEMENTS, "renewals")?,
            paths: list(heartbeat.paths, MOST_PLACEMENTS, "paths")?,
        })
    }
}

impl From<Mark> for v1::Mark {
    fn from(mark: Mark) -> Self {
        let Mark { term, at } = mark;
        v1::Mark { term, at_millis: at.0 }
    }
}

impl From<v1::Mark> for Mark {
    fn from(mark: v1::Mark) -> Self {
        Mark { term: mark.term, at: Moment(mark.at_millis) }
    }
}

impl From<PathState> for v1::PathState {
    fn from(state: PathState) -> Self {
        let PathState { cluster, path, reachable, mark, worked_age } = state;
        v1::PathState {
            cluster: cluster.to_string(),
            path: v1::PathKind::from(path).into(),
            reachable,
            mark: Some(mark.into()),
            worked_age_nanos: worked_age.map(nanos),
        }
    }
}

impl TryFrom<v1::PathState> for PathState {
    type Error = WireError;
    fn try_from(state: v1::PathState) -> Parsed<Self> {
        Ok(PathState {
            cluster: cluster(&state.cluster, "cluster")?,
            path: path_kind(state.path, "path")?,
            reachable: state.reachable,
            mark: present(state.mark, "mark")?.into(),
            worked_age: state.worked_age_nanos.map(Duration::from_nanos),
        })
    }
}

impl From<Reply> for v1::Reply {
    fn from(reply: Reply) -> Self {
        let Reply { term, nonce, mark, grants, denials } = reply;
        v1::Reply {
            term: term.0,
            nonce: nonce.0,
            mark: Some(mark.into()),
            grants: grants.into_iter().map(Into::into).collect(),
            denials: denials.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Reply> for Reply {
    type Error = WireError;
    fn try_from(reply: v1::Reply) -> Parsed<Self> {
        Ok(Reply {
            term: Term(reply.term),
            nonce: Nonce(reply.nonce),
            mark: present(reply.mark, "mark")?.into(),
            grants: list(reply.grants, MOST_PLACEMENTS, "grants")?,
            denials: list(reply.denials, MOST_PLACEMENTS, "denials")?,
        })
    }
}
