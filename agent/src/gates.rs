//! Where the gates of this cluster's pods ask: a line of JSON is a question, and each answer is a line.
//!
//! Nothing here is secret, and nothing that is said here is believed: an answer is signed by the hub or by a target, and
//! names the nonce that the gate made. So there is no TLS, and what is bounded is the work that a stranger could cause.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::gate::{Certificate, PROMISE_DOMAIN, Question, Seal};
use proto::{GateNonce, HoldAnswer, Sealed};
use tls::Credentials;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// A name, a uid and a nonce.
const LONGEST_QUESTION: u64 = 4 * 1024;
/// Connections at the same time, one for each gated pod of the cluster; a gate that finds none free asks again.
const CONNECTIONS: usize = 4096;
/// Of one address: a pod's own, or that of a node whose pods share its network.
const CONNECTIONS_OF_ONE: usize = 256;
/// Between two questions of one connection: a gate asks twice a second at most, and at once after a jump of its clock.
const PAUSE: Duration = Duration::from_millis(50);
/// Answers waiting for one gate, which takes them at once; the next one is as good.
const ANSWERS: usize = 32;
/// Nonces that may still be answered, of all gates.
const WAITING: usize = 64 * 1024;
/// A gate that says nothing for this long has gone.
const SILENCE: Duration = Duration::from_secs(120);
const WRITE: Duration = Duration::from_secs(5);

/// A gate asks; what is answered to it goes to `answers`.
#[derive(Debug)]
pub struct GateAsked {
    pub question: Question,
    pub answers: mpsc::Sender<Sealed>,
}

/// Serves gates on `listener` until `stop`.
pub async fn serve(
    listener: TcpListener,
    questions: mpsc::Sender<GateAsked>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let places = Places::default();
    let mut conversations = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_ended) = conversations.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(error) => {
                // Out of file descriptors, say: what is open goes on, and gates ask again.
                tracing::warn!(error = &error as &dyn Error, "a gate could not connect");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = places.take(address) else { continue };
        let questions = questions.clone();
        conversations.spawn(async move {
            let _place = place;
            if let Err(error) = converse(stream, questions).await {
                tracing::debug!(error = &error as &dyn Error, "a gate's connection ended");
            }
        });
    }
}

/// Who is connected, by address.
#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// Free again when it is dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    /// None: there is no free one, or none for this address.
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, of_one) = (taken.values().sum::<usize>(), taken.get(&address).copied().unwrap_or(0));
        if all >= CONNECTIONS || of_one >= CONNECTIONS_OF_ONE {
            return None;
        }
        taken.insert(address, of_one + 1);
        Some(Place { places: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = taken.get_mut(&self.address) {
            *of_one -= 1;
        }
        taken.retain(|_, of_one| *of_one > 0);
    }
}

async fn converse(stream: TcpStream, questions: mpsc::Sender<GateAsked>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let (answers, mut answered) = mpsc::channel::<Sealed>(ANSWERS);
    // Outside of the loop: what was read of a line when an answer came in between stays in it.
    let mut line = Vec::new();
    let mut next = Instant::now();
    loop {
        let mut bounded = (&mut reading).take(LONGEST_QUESTION.saturating_sub(line.len() as u64));
        let read = async {
            sleep_until(next).await;
            timeout(SILENCE, bounded.read_until(b'\n', &mut line)).await
        };
        tokio::select! {
            read = read => {
                read??;
                next = Instant::now() + PAUSE;
                if line.last() != Some(&b'\n') {
                    return Ok(());
                }
                let question = serde_json::from_slice(&line).map_err(io::Error::other)?;
                line.clear();
                // A driver that does not keep up is asked again.
                let _full = questions.try_send(GateAsked { question, answers: answers.clone() });
            }
            Some(answer) = answered.recv() => write(&mut writing, &answer).await?,
        }
    }
}

async fn write(writing: &mut (impl AsyncWriteExt + Unpin), answer: &Sealed) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    line.push(b'\n');
    timeout(WRITE, writing.write_all(&line)).await?
}

/// Who waits for the answer to which nonce.
#[derive(Debug, Default)]
pub struct Waiting {
    answers: BTreeMap<GateNonce, mpsc::Sender<Sealed>>,
    /// The oldest first.
    order: VecDeque<GateNonce>,
}

impl Waiting {
    /// Only what is going to be answered: a stranger's nonces push none out.
    pub fn note(&mut self, asked: GateAsked) {
        let GateAsked { question, answers } = asked;
        self.answers.insert(question.nonce.clone(), answers);
        self.order.push_back(question.nonce);
        if self.order.len() > WAITING
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }

    /// A nonce may be answered several times: by the hub, and by each target.
    pub fn answer(&mut self, answer: Sealed) {
        let Some(answers) = self.answers.get(&answer.nonce) else { return };
        // A gate that does not read gets a later one.
        let _full_or_gone = answers.try_send(answer);
    }
}

/// Puts this cluster's signature on what it promises to the gates of another.
pub fn seal(credentials: &Credentials, answer: &mut HoldAnswer) {
    let HoldAnswer::Promised { hold: _, tickets } = answer else { return };
    for ticket in tickets {
        match credentials.sign(PROMISE_DOMAIN, &ticket.body) {
            Ok(signature) => {
                ticket.seal = Some(Seal {
                    scheme: signature.scheme,
                    signature: signature.bytes,
                    chain: signature.chain.into_iter().map(Certificate).collect(),
                });
            }
            Err(error) => tracing::error!(error = &error as &dyn Error, "a promise cannot be signed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place() {
        let (stranger, pod) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let places = Places::default();
        let taken: Vec<_> = std::iter::from_fn(|| places.take(stranger)).take(CONNECTIONS).collect();
        assert_eq!(taken.len(), CONNECTIONS_OF_ONE);
        let gate = places.take(pod);
        assert!(gate.is_some());
        drop((taken, gate));
        assert!(places.take(stranger).is_some());
        assert!(places.0.lock().expect("the places").is_empty(), "an address that is gone is forgotten");
    }

    #[test]
    fn addresses_together_take_no_more_than_there_is() {
        let places = Places::default();
        let addresses = (0..=255_u8).map(|last| IpAddr::from([10, 0, 0, last]));
        let taken: Vec<_> = addresses
            .flat_map(|address| {
                (0..CONNECTIONS_OF_ONE).map_while(|_| places.take(address)).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(taken.len(), CONNECTIONS);
    }
}
