//! The talk with the agent, on threads of its own: whatever the network does, the clock is watched meanwhile.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use proto::Sealed;
use proto::gate::Question;

use crate::guard::say;

const CONNECT: Duration = Duration::from_secs(1);
const WRITE: Duration = Duration::from_secs(1);
/// An agent that answers nothing for so long after two questions may be gone without a word: the gate
/// connects anew.
const SILENCE: Duration = Duration::from_secs(5);
/// A ticket with its certificates is a few kilobytes.
const LONGEST_ANSWER: u64 = 256 * 1024;
/// One: a question that waits is soon a stale one.
const QUESTIONS: usize = 1;
const ANSWERS: usize = 64;

/// A question, and how soon the next one follows.
type Asked = (Question, Duration);

pub struct Conversation {
    questions: SyncSender<Asked>,
    answers: Receiver<Sealed>,
}

impl Conversation {
    /// `agent` is `host:port`; it is resolved anew at every connection.
    pub fn begin(agent: String) -> Conversation {
        let (questions, to_ask) = sync_channel(QUESTIONS);
        let (answered, answers) = sync_channel(ANSWERS);
        thread::spawn(move || speak(&agent, &to_ask, &answered));
        Conversation { questions, answers }
    }

    /// Never waits: a question that finds the talk stuck is not asked, and the next one is.
    pub fn ask(&self, question: Question, period: Duration) {
        let _stuck = self.questions.try_send((question, period));
    }

    /// The next answer, or none within `patience`.
    pub fn answer(&self, patience: Duration) -> Option<Sealed> {
        match self.answers.recv_timeout(patience) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            // The talk has ended: only the clock is left.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(patience);
                None
            }
        }
    }
}

fn speak(agent: &str, questions: &Receiver<Asked>, answers: &SyncSender<Sealed>) {
    let mut connection: Option<TcpStream> = None;
    let mut told = false;
    while let Ok((question, period)) = questions.recv() {
        let silence = period * 2 + SILENCE;
        // A connection that has ended meanwhile is noticed by the question that it does not take.
        let open = connection.take().and_then(|stream| ask(stream, &question, silence).ok());
        let spoken = match open {
            Some(stream) => Ok(stream),
            None => connect(agent, answers, silence).and_then(|stream| ask(stream, &question, silence)),
        };
        match spoken {
            Ok(stream) => {
                connection = Some(stream);
                told = false;
            }
            Err(error) if !told => {
                say(&format!("the agent at {agent} cannot be asked: {error}"));
                told = true;
            }
            Err(_) => {}
        }
    }
}

fn connect(agent: &str, answers: &SyncSender<Sealed>, silence: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the address has no host");
    for address in agent.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE))?;
                stream.set_read_timeout(Some(silence))?;
                let (reading, answers) = (stream.try_clone()?, answers.clone());
                thread::spawn(move || listen(reading, &answers));
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn ask(mut stream: TcpStream, question: &Question, silence: Duration) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(silence))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(stream)
}

/// Until the connection breaks, falls silent or says what is no answer.
fn listen(stream: TcpStream, answers: &SyncSender<Sealed>) {
    let mut reading = BufReader::new(&stream);
    loop {
        let mut line = Vec::new();
        let read = (&mut reading).take(LONGEST_ANSWER).read_until(b'\n', &mut line);
        let Some(answer) = read.ok().and_then(|_| serde_json::from_slice(&line).ok()) else { break };
        // A full queue loses an answer, and the next one is as good.
        let _full = answers.try_send(answer);
    }
    let _closed_already = stream.shutdown(Shutdown::Both);
}
