//! Stands in for a network link: a TCP relay in this process that can be cut, healed, slowed down and made to refuse.
//!
//! A cut link is a black hole, as when a cable is pulled: what was sent is held back, nothing is closed or reset, and
//! neither end can tell. Two differences from a real cut are deliberate: a new connection is accepted and then hears
//! nothing, where a real one would not even be accepted; and what was on its way when the link was cut arrives when
//! it is healed, as TCP's own repetition would see to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

/// The largest piece carried at once, and how many of them may be under way in one direction: together with the
/// kernel's own buffers they bound what a slow or cut link holds.
const PIECE_BYTES: usize = 16 * 1024;
const PIECES_UNDER_WAY: usize = 64;
/// More connections than any test opens over one link; further ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 512;
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A way over the link, seen from the one who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToTarget,
    FromTarget,
}

/// A link to one address.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    target: SocketAddr,
    link: watch::Sender<Link>,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

/// The state of the link, the same for all of its connections.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    to_target_cut: bool,
    from_target_cut: bool,
    refuses: bool,
    delay: Duration,
}

impl Link {
    fn is_cut(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToTarget => self.to_target_cut,
            Direction::FromTarget => self.from_target_cut,
        }
    }
}

impl Relay {
    /// Listens on the address, or on a free port of 127.0.0.1, and carries everything to the target.
    pub async fn start(listen: Option<SocketAddr>, target: SocketAddr) -> Result<Relay> {
        let listen = listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listening on {listen} for a link to {target}"))?;
        let address =
            listener.local_addr().with_context(|| format!("asking which port of {listen} was given"))?;
        let (link, seen) = watch::channel(Link::default());
        let connections = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(accept(listener, target, seen, connections.clone()));
        Ok(Relay { address, target, link, connections, accepting })
    }

    /// Where to connect in order to get over the link.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// How many connections are over the link now, a cut one included.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Makes a black hole of both directions.
    pub fn cut(&self) {
        self.change(|link| {
            link.to_target_cut = true;
            link.from_target_cut = true;
        });
    }

    /// Makes a black hole of one direction.
    pub fn cut_one_way(&self, direction: Direction) {
        self.change(|link| match direction {
            Direction::ToTarget => link.to_target_cut = true,
            Direction::FromTarget => link.from_target_cut = true,
        });
    }

    /// Resets every connection, and each new one as soon as it is made.
    pub fn cut_reset(&self) {
        self.change(|link| link.refuses = true);
    }

    /// Opens both directions again. What was held back arrives; the delay stays as it is.
    pub fn heal(&self) {
        self.change(|link| *link = Link { delay: link.delay, ..Link::default() });
    }

    /// Delays whatever is sent from now on, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.change(|link| link.delay = delay);
    }

    fn change(&self, change: impl FnOnce(&mut Link)) {
        self.link.send_modify(change);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Owns all connections: they end with it.
async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    link: watch::Receiver<Link>,
    count: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => count.store(connections.len(), Ordering::Relaxed),
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((client, _)) => {
                    connections.spawn(carry(client, target, link.clone()));
                    count.store(connections.len(), Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, %target, "a link could not accept a connection"),
            },
        }
    }
}

/// Carries one connection until both ends have closed, one of them failed, or the link resets it.
async fn carry(client: TcpStream, target: SocketAddr, link: watch::Receiver<Link>) {
    let server = tokio::select! {
        biased;
        () = refusing(link.clone()) => None,
        server = reach(target, link.clone()) => server,
    };
    match server {
        Some(server) => join(client, server, link).await,
        None => reset(&client),
    }
}

/// Connects to the target once the link lets anything through to it.
async fn reach(target: SocketAddr, mut link: watch::Receiver<Link>) -> Option<TcpStream> {
    passable(&mut link, Direction::ToTarget).await?;
    match timeout(CONNECT_DEADLINE, TcpStream::connect(target)).await {
        Ok(Ok(server)) => Some(server),
        Ok(Err(error)) => {
            tracing::debug!(%error, %target, "the far end of a link does not answer");
            None
        }
        Err(_) => None,
    }
}

async fn join(mut client: TcpStream, mut server: TcpStream, link: watch::Receiver<Link>) {
    // Small messages must not wait for more to come: the ends have decided that already.
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let ended_well = tokio::select! {
        biased;
        () = refusing(link.clone()) => false,
        outcome = async {
            tokio::try_join!(
                flow(from_client, to_server, Direction::ToTarget, link.clone()),
                flow(from_server, to_client, Direction::FromTarget, link.clone()),
            )
        } => outcome.is_ok(),
    };
    if !ended_well {
        reset(&client);
        reset(&server);
    }
}

/// Carries one direction to its end, which is passed on as a close; a failure resets the whole connection.
async fn flow(
    source: ReadHalf<'_>,
    sink: WriteHalf<'_>,
    direction: Direction,
    link: watch::Receiver<Link>,
) -> std::io::Result<()> {
    let (pieces, under_way) = mpsc::channel(PIECES_UNDER_WAY);
    tokio::try_join!(
        take_in(source, pieces, direction, link.clone()),
        give_out(sink, under_way, direction, link)
    )?;
    Ok(())
}

struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

async fn take_in(
    mut source: ReadHalf<'_>,
    pieces: mpsc::Sender<Piece>,
    direction: Direction,
    mut link: watch::Receiver<Link>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = source.read(&mut buffer).await;
        // An end or a failure is news as well, and must not get over a cut link either.
        passable(&mut link, direction).await;
        let length = read?;
        let piece = Piece { due: Instant::now() + link.borrow().delay, bytes: buffer[..length].to_vec() };
        if pieces.send(piece).await.is_err() || length == 0 {
            return Ok(());
        }
    }
}

async fn give_out(
    mut sink: WriteHalf<'_>,
    mut under_way: mpsc::Receiver<Piece>,
    direction: Direction,
    mut link: watch::Receiver<Link>,
) -> std::io::Result<()> {
    while let Some(piece) = under_way.recv().await {
        sleep_until(piece.due).await;
        passable(&mut link, direction).await;
        if piece.bytes.is_empty() {
            return sink.shutdown().await;
        }
        sink.write_all(&piece.bytes).await?;
    }
    Ok(())
}

/// Waits until the direction is open. Nothing when the relay is gone.
async fn passable(link: &mut watch::Receiver<Link>, direction: Direction) -> Option<()> {
    link.wait_for(|link| !link.is_cut(direction)).await.ok().map(|_| ())
}

/// Waits until the link resets connections.
async fn refusing(mut link: watch::Receiver<Link>) {
    link.wait_for(|link| link.refuses).await.ok();
}

/// Lets the close that follows be a reset.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection closes in the usual way, as it could not be reset");
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);
    /// Far longer than loopback takes; a black hole is told from a slow link by it.
    const SILENCE: Duration = Duration::from_millis(150);

    /// Answers every byte with the same byte.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await.ok();
                });
            }
        });
        address
    }

    async fn link() -> (Relay, TcpStream) {
        let relay = Relay::start(None, echo().await).await.expect("a relay");
        let client = TcpStream::connect(relay.address()).await.expect("a connection");
        (relay, client)
    }

    async fn answer(client: &mut TcpStream, within: Duration) -> Option<std::io::Result<u8>> {
        timeout(within, client.read_u8()).await.ok()
    }

    async fn ask(client: &mut TcpStream, question: u8) -> u8 {
        client.write_u8(question).await.expect("sending");
        answer(client, DEADLINE).await.expect("an answer in time").expect("an answer")
    }

    #[tokio::test]
    async fn a_cut_link_is_silent_and_delivers_when_it_is_healed() {
        let (relay, mut client) = link().await;
        assert_eq!(ask(&mut client, 1).await, 1);
        relay.cut();
        client.write_u8(2).await.expect("sending into the hole");
        assert!(answer(&mut client, SILENCE).await.is_none(), "something came through a cut link");
        relay.heal();
        assert_eq!(answer(&mut client, DEADLINE).await.expect("in time").expect("a byte"), 2);
    }

    #[tokio::test]
    async fn a_connection_made_over_a_cut_link_works_after_healing() {
        let (relay, _first) = link().await;
        relay.cut();
        let mut late = TcpStream::connect(relay.address()).await.expect("a connection");
        late.write_u8(3).await.expect("sending into the hole");
        assert!(answer(&mut late, SILENCE).await.is_none(), "something came through a cut link");
        relay.heal();
        assert_eq!(answer(&mut late, DEADLINE).await.expect("in time").expect("a byte"), 3);
    }

    #[tokio::test]
    async fn the_end_of_a_connection_does_not_cross_a_cut_link() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let relay = Relay::start(None, listener.local_addr().expect("its address")).await.expect("a relay");
        let client = TcpStream::connect(relay.address()).await.expect("a connection");
        let (mut server, _) = listener.accept().await.expect("a connection");
        relay.cut();
        drop(client);
        assert!(answer(&mut server, SILENCE).await.is_none(), "the end crossed a cut link");
        relay.heal();
        assert!(answer(&mut server, DEADLINE).await.expect("in time").is_err(), "the end never came");
    }

    #[tokio::test]
    async fn a_one_way_cut_lets_the_other_way_through() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let relay = Relay::start(None, listener.local_addr().expect("its address")).await.expect("a relay");
        let mut client = TcpStream::connect(relay.address()).await.expect("a connection");
        let (mut server, _) = listener.accept().await.expect("a connection");
        relay.cut_one_way(Direction::FromTarget);
        client.write_u8(4).await.expect("sending");
        assert_eq!(answer(&mut server, DEADLINE).await.expect("in time").expect("a byte"), 4);
        server.write_u8(5).await.expect("sending");
        assert!(answer(&mut client, SILENCE).await.is_none(), "something came through the cut way");
    }

    #[tokio::test]
    async fn a_refusing_link_resets_old_and_new_connections() {
        let (relay, mut client) = link().await;
        assert_eq!(ask(&mut client, 6).await, 6);
        relay.cut_reset();
        let reset = answer(&mut client, DEADLINE).await.expect("in time").expect_err("a reset");
        assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
        // The reset may come before this side knows that it is connected.
        if let Ok(mut late) = TcpStream::connect(relay.address()).await {
            assert!(answer(&mut late, DEADLINE).await.expect("in time").is_err(), "a refusing link answered");
        }
        relay.heal();
        let mut later = TcpStream::connect(relay.address()).await.expect("a connection");
        assert_eq!(ask(&mut later, 7).await, 7);
    }

    #[tokio::test]
    async fn a_delay_counts_once_each_way() {
        let (relay, mut client) = link().await;
        relay.delay(SILENCE);
        let started = Instant::now();
        assert_eq!(ask(&mut client, 8).await, 8);
        assert!(started.elapsed() >= 2 * SILENCE, "faster than the link: {:?}", started.elapsed());
    }

    #[tokio::test]
    async fn much_data_arrives_whole() {
        let (_relay, client) = link().await;
        let (mut reader, mut writer) = client.into_split();
        let sent: Vec<u8> = (0..8_000_000_u32).map(|index| index.to_le_bytes()[1]).collect();
        let (arrived, arrival) = oneshot::channel();
        tokio::spawn(async move {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.expect("reading");
            arrived.send(all).expect("a listener");
        });
        writer.write_all(&sent).await.expect("sending");
        writer.shutdown().await.expect("the end");
        assert!(timeout(DEADLINE, arrival).await.expect("in time").expect("all") == sent, "the bytes differ");
    }

    #[tokio::test]
    async fn the_connections_end_with_the_relay() {
        let (relay, mut client) = link().await;
        assert_eq!(ask(&mut client, 9).await, 9);
        assert_eq!(relay.connections(), 1);
        drop(relay);
        assert!(
            answer(&mut client, DEADLINE).await.expect("in time").is_err(),
            "a connection outlived its link"
        );
    }
}
