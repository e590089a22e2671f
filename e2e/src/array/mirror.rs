//! Stand-in for a storage array: the conversation between the two sites' mirror daemons.
//!
//! Each side asks the other, again and again: what do you offer, give me the bytes of that snapshot, and hear how
//! far I am. A question and an answer are a line of JSON each; bytes follow theirs raw. Every wait has a deadline,
//! so a link that was cut ends a round and nothing more; the next round is a new connection.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{
    groups::{self, GroupOffer},
    image::{Image, Offer, Report, Role, Snapshot, Sync},
    serve::Site,
    settings::Settings,
    shelf::Shelf,
};

const LINE_LIMIT: u64 = 8 * 1024 * 1024;
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
enum Question {
    Offers,
    Bytes { handle: String, snapshot: Snapshot, from: u64 },
    Hear(Vec<(String, Report)>),
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Offers(Vec<Offer>, Vec<GroupOffer>),
    Bytes(u64),
    Heard,
    NoSuchSnapshot,
}

/// Answers the peer for as long as the array runs.
pub async fn serve(site: Arc<Site>, listener: TcpListener) -> Result<(), io::Error> {
    let mut rounds = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                rounds.spawn(answer_round_to_its_end(site.clone(), stream));
            }
            Some(ended) = rounds.join_next() => ended.map_err(io::Error::other)?,
        }
    }
}

async fn answer_round_to_its_end(site: Arc<Site>, stream: TcpStream) {
    if let Err(error) = answer_round(&site, stream).await {
        tracing::debug!(%error, "a round of the peer broke off");
    }
}

async fn answer_round(site: &Site, stream: TcpStream) -> Result<(), io::Error> {
    let mut link = Link(BufStream::new(stream));
    while let Some(question) = link.receive::<Question>().await? {
        let mut bytes = Vec::new();
        let answer = match question {
            Question::Offers => {
                let shelf = site.shelf.lock().await;
                Answer::Offers(shelf.offers(), shelf.groups.offers())
            }
            Question::Bytes { handle, snapshot, from } => {
                match bytes_of(&*site.shelf.lock().await, &handle, &snapshot, from)? {
                    Some(found) => {
                        bytes = found;
                        Answer::Bytes(bytes.len() as u64)
                    }
                    None => Answer::NoSuchSnapshot,
                }
            }
            Question::Hear(reports) => {
                site.shelf.lock().await.note_reports(reports)?;
                Answer::Heard
            }
        };
        link.send(&answer, &bytes).await?;
    }
    Ok(())
}

fn bytes_of(
    shelf: &Shelf,
    handle: &str,
    snapshot: &Snapshot,
    from: u64,
) -> Result<Option<Vec<u8>>, io::Error> {
    let Some(slot) = shelf.slot(handle) else { return Ok(None) };
    let knows = |known: &Snapshot| known.tenure == snapshot.tenure && known.number >= snapshot.number;
    let known = slot.image.head.iter().chain(&slot.image.parents).any(knows);
    if !known || slot.length() < snapshot.length {
        return Ok(None);
    }
    slot.read(from, snapshot.length).map(Some)
}

/// Asks the peer for as long as the array runs.
pub async fn follow(site: Arc<Site>, peer: String) -> Result<(), io::Error> {
    let mut transfers = Transfers::default();
    loop {
        let settings = match Settings::read(&site.directory) {
            Ok(settings) => settings,
            Err(error) => {
                tracing::warn!(%error, "mirroring goes on with default settings");
                Settings::default()
            }
        };
        if let Err(error) = ask_round(&site, &peer, &settings, &mut transfers).await {
            tracing::debug!(%error, "a round with the peer broke off");
        }
        tokio::time::sleep(settings.mirror_poll.max(Duration::from_millis(5))).await;
    }
}

/// The snapshots that are under way, of an image alone or of all of a group, and when they arrive: one at a time, however
/// many are offered.
#[derive(Default)]
struct Transfers(BTreeMap<String, (Vec<Offer>, Instant)>);

impl Transfers {
    /// Begins a transfer unless one is under way; gives it out when its time is over.
    fn arrived(&mut self, id: &str, offers: &[Offer], delay: Duration) -> Option<(Vec<Offer>, Instant)> {
        let begun = self.0.entry(id.to_owned()).or_insert_with(|| (offers.to_vec(), Instant::now())).clone();
        (begun.1.elapsed() >= delay).then(|| {
            self.0.remove(id);
            begun
        })
    }

    fn forget(&mut self, id: &str) {
        self.0.remove(id);
    }
}

async fn ask_round(
    site: &Site,
    peer: &str,
    settings: &Settings,
    transfers: &mut Transfers,
) -> Result<(), io::Error> {
    let stream = timeout(DEADLINE, TcpStream::connect(peer)).await.map_err(|_| silent("connecting"))??;
    let mut link = Link(BufStream::new(stream));
    let Answer::Offers(offers, groups) = link.ask(&Question::Offers).await? else {
        return Err(unexpected("offers"));
    };
    {
        let mut shelf = site.shelf.lock().await;
        shelf.remember_offers(offers.clone());
        discard_what_must_go(&mut shelf, &offers, settings)?;
        groups::follow(&mut shelf, groups.clone(), &offers)?;
    }
    for (id, parcel) in &parcels(&offers, &groups) {
        copy_if_due(site, &mut link, (id, parcel), settings, transfers).await?;
    }
    let reports = site.shelf.lock().await.reports(settings);
    match link.ask(&Question::Hear(reports)).await? {
        Answer::Heard => Ok(()),
        Answer::Offers(..) | Answer::Bytes(_) | Answer::NoSuchSnapshot => Err(unexpected("to be heard")),
    }
}

/// A secondary goes when its primary ends the mirroring, and before it is made anew by a resync.
fn discard_what_must_go(shelf: &mut Shelf, offers: &[Offer], settings: &Settings) -> Result<(), io::Error> {
    let to_resync: Vec<String> = shelf
        .slots_mut()
        .filter(|slot| slot.image.resync_requested)
        .map(|slot| slot.image.handle.clone())
        .collect();
    for handle in to_resync {
        tracing::info!(%handle, "resync: the image is discarded");
        shelf.discard(&handle, Some(Instant::now() + settings.resync_delay))?;
    }
    for offer in offers.iter().filter(|offer| !offer.mirroring && offer.role == Role::Primary) {
        let follows = shelf.slot(&offer.handle).is_some_and(|slot| {
            slot.image.role == Role::Secondary && slot.image.mirroring && slot.image.same_or_behind(offer)
        });
        if follows {
            tracing::info!(handle = %offer.handle, "mirroring ended at the primary: the copy is removed");
            shelf.discard(&offer.handle, None)?;
        }
    }
    Ok(())
}

/// The offers of one group together, and each of the others alone.
fn parcels(offers: &[Offer], groups: &[GroupOffer]) -> BTreeMap<String, Vec<Offer>> {
    let mut parcels: BTreeMap<String, Vec<Offer>> = BTreeMap::new();
    for offer in offers {
        let group = groups.iter().find(|group| group.images.contains(&offer.handle));
        let id = group.map_or(&offer.handle, |group| &group.id);
        parcels.entry(id.clone()).or_default().push(offer.clone());
    }
    parcels
}

/// Copies what is due of a parcel; it is taken over as a whole, so that a group is never seen at two moments.
async fn copy_if_due(
    site: &Site,
    link: &mut Link,
    (id, offers): (&str, &[Offer]),
    settings: &Settings,
    transfers: &mut Transfers,
) -> Result<(), io::Error> {
    let wanted = {
        let shelf = site.shelf.lock().await;
        offers.iter().any(|offer| offer.mirroring && from_where(&shelf, offer).is_some())
    };
    if !wanted || is_stalled(settings, id, offers) {
        transfers.forget(id);
        return Ok(());
    }
    let Some((offers, begun)) = transfers.arrived(id, offers, settings.sync_delay) else { return Ok(()) };
    let mut copies = Vec::new();
    for offer in &offers {
        match copy(site, link, offer, begun).await? {
            Fetched::Nothing => {}
            Fetched::Replica(replica) => copies.push(*replica),
            Fetched::Gone => return Ok(()),
        }
    }
    let mut shelf = site.shelf.lock().await;
    // A test that has just set a stall may rely on it: no snapshot under way slips through.
    let settings = Settings::read(&site.directory)?;
    let changed = copies.iter().any(|copy| from_where(&shelf, &copy.offer) != Some(copy.from));
    if is_stalled(&settings, id, &offers) || changed {
        return Ok(());
    }
    copies.into_iter().try_for_each(|copy| take_over(&mut shelf, copy, &settings))
}

fn is_stalled(settings: &Settings, id: &str, offers: &[Offer]) -> bool {
    let stalled = &settings.stall_replication;
    stalled.contain(id) || offers.iter().any(|offer| stalled.contain(&offer.handle))
}

/// A snapshot with the bytes that were missing here.
struct Replica {
    offer: Offer,
    sync: Sync,
    from: u64,
    bytes: Vec<u8>,
}

enum Fetched {
    /// It is here already.
    Nothing,
    Replica(Box<Replica>),
    /// The peer does not have it any more.
    Gone,
}

async fn copy(site: &Site, link: &mut Link, offer: &Offer, begun: Instant) -> Result<Fetched, io::Error> {
    let from = from_where(&*site.shelf.lock().await, offer);
    let (Some(from), Some(snapshot), true) = (from, offer.head.clone(), offer.mirroring) else {
        return Ok(Fetched::Nothing);
    };
    let question = Question::Bytes { handle: offer.handle.clone(), snapshot: snapshot.clone(), from };
    let length = match link.ask(&question).await? {
        Answer::Bytes(length) => length,
        Answer::NoSuchSnapshot => return Ok(Fetched::Gone),
        Answer::Offers(..) | Answer::Heard => return Err(unexpected("bytes")),
    };
    let bytes = link.bytes(length).await?;
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let sync = Sync { snapshot, bytes: length, milliseconds };
    Ok(Fetched::Replica(Box::new(Replica { offer: offer.clone(), sync, from, bytes })))
}

/// From which byte on the peer's snapshot is wanted here, if it is.
fn from_where(shelf: &Shelf, offer: &Offer) -> Option<u64> {
    match shelf.slot(&offer.handle) {
        Some(slot) => slot.image.follows(offer).then(|| slot.length()),
        None => (offer.role == Role::Primary && !shelf.is_away(&offer.handle)).then_some(0),
    }
}

fn take_over(shelf: &mut Shelf, replica: Replica, settings: &Settings) -> Result<(), io::Error> {
    let Replica { offer, sync, from: _, bytes } = replica;
    match shelf.slot_mut(&offer.handle) {
        Some(slot) => slot.replay(&offer, sync, &bytes),
        None => {
            let image = Image::copied(&offer, sync, Timestamp::now());
            shelf.put_anew(image, &bytes, Instant::now() + settings.resync_delay)
        }
    }
}

/// One connection, either end of it.
struct Link(BufStream<TcpStream>);

impl Link {
    async fn ask(&mut self, question: &Question) -> Result<Answer, io::Error> {
        self.send(question, &[]).await?;
        self.receive().await?.ok_or_else(|| io::Error::other("the peer closed the connection"))
    }

    async fn send(&mut self, line: &impl Serialize, bytes: &[u8]) -> Result<(), io::Error> {
        let mut message = serde_json::to_vec(line)?;
        message.push(b'\n');
        let sent = async {
            self.0.write_all(&message).await?;
            self.0.write_all(bytes).await?;
            self.0.flush().await
        };
        timeout(DEADLINE, sent).await.map_err(|_| silent("sending"))?
    }

    async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, io::Error> {
        let mut line = Vec::new();
        let mut reader = (&mut self.0).take(LINE_LIMIT);
        let length = timeout(DEADLINE, reader.read_until(b'\n', &mut line)).await;
        match length.map_err(|_| silent("receiving"))?? {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_slice(&line)?)),
        }
    }

    /// A large image may take its time, as long as it keeps coming.
    async fn bytes(&mut self, length: u64) -> Result<Vec<u8>, io::Error> {
        let mut bytes = Vec::new();
        let mut reader = (&mut self.0).take(length);
        while (bytes.len() as u64) < length {
            let read = timeout(DEADLINE, reader.read_buf(&mut bytes)).await;
            if read.map_err(|_| silent("receiving bytes"))?? == 0 {
                return Err(io::Error::other(format!("{} of {length} bytes arrived", bytes.len())));
            }
        }
        Ok(bytes)
    }
}

fn silent(doing: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{doing}: the peer was silent for {DEADLINE:?}"))
}

fn unexpected(wanted: &str) -> io::Error {
    io::Error::other(format!("the peer answered something else than {wanted}"))
}
