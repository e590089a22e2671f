//! Where the gates of this cluster's pods ask: a line of JSON is a question, and each answer is a line.
//!
//! Nothing here is secret, and nothing that is said here is believed: an answer is signed by the hub or by a target, and
//! names the nonce that the gate made. So there is no TLS, and what is bounded is the work that a stranger could cause.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use proto::gate::{Certificate, PROMISE_DOMAIN, Question, Seal};
use proto::{GateNonce, HoldAnswer, Sealed};
use tls::Credentials;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A name, a uid and a nonce.
const LONGEST_QUESTION: u64 = 4 * 1024;
/// Connections at the same time, one for each gated pod of the cluster; a gate that finds none free asks again.
const CONNECTIONS: usize = 4096;
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
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut conversations = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_ended) = conversations.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, say: what is open goes on, and gates ask again.
                tracing::warn!(error = &error as &dyn Error, "a gate could not connect");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = free.clone().try_acquire_owned() else { continue };
        let questions = questions.clone();
        conversations.spawn(async move {
            let _permit = permit;
            if let Err(error) = converse(stream, questions).await {
                tracing::debug!(error = &error as &dyn Error, "a gate's connection ended");
            }
        });
    }
}

async fn converse(stream: TcpStream, questions: mpsc::Sender<GateAsked>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let (answers, mut answered) = mpsc::channel::<Sealed>(ANSWERS);
    // Outside of the loop: what was read of a line when an answer came in between stays in it.
    let mut line = Vec::new();
    loop {
        let mut bounded = (&mut reading).take(LONGEST_QUESTION.saturating_sub(line.len() as u64));
        tokio::select! {
            read = timeout(SILENCE, bounded.read_until(b'\n', &mut line)) => {
                read??;
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
    pub fn note(&mut self, asked: GateAsked) -> Question {
        let GateAsked { question, answers } = asked;
        self.answers.insert(question.nonce.clone(), answers);
        self.order.push_back(question.nonce.clone());
        if self.order.len() > WAITING
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
        question
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
