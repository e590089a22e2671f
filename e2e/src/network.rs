//! A real network for a federation: a network namespace for each site, and between them an exchange that can drop what one
//! site sends to another, in each direction on its own, or carry it slowly.
//!
//! Whoever watches stands at the exchange, so that he reaches every site whatever is cut between them. A cut is a rule of
//! the exchange that throws packets away without a word, as a pulled cable does; nothing is closed or refused. Only
//! iproute2 is needed, and root. The names carry the process id: several networks may exist, and what a killed process left
//! behind is removed by the next one.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};

use crate::assets::Assets;
use crate::programs::Programs;

const SITES: [&str; 3] = ["hub", "east", "west"];
const EXCHANGE: &str = "exchange";
const PREFIX: &str = "understudy-";
/// Where `ip netns` keeps the names.
const NAMED: &str = "/run/netns";
/// A story of a whole federation is one deep future.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Three sites and the exchange between them. All of it is removed when this is dropped.
#[derive(Debug)]
pub struct Network {
    prefix: String,
}

impl Network {
    /// Lays the network; removes first what dead processes have left of theirs.
    pub fn lay() -> Result<Arc<Network>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure_allowed()?;
        remove_stale()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Dropped, and so removed, when a part of it cannot be made.
        let network = Network { prefix: format!("{PREFIX}{}-{number}-", std::process::id()) };
        network.make_exchange()?;
        SITES.iter().try_for_each(|site| network.join(site))?;
        Ok(Arc::new(network))
    }

    /// The site's own address; nobody else has it in its namespace.
    pub fn address(site: &str) -> Ipv4Addr {
        Ipv4Addr::new(10, 86, third_octet(site), 2)
    }

    /// What a site's programs are started through.
    pub fn entrance(&self, site: &str) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.path(site).display()), "--".to_owned()]
    }

    /// Drops whatever one site sends to another, and nothing that comes back.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        if !self.is_cut(from, to)? {
            self.rule("add", from, to)?;
        }
        Ok(())
    }

    pub fn heal_one_way(&self, from: &str, to: &str) -> Result<()> {
        if self.is_cut(from, to)? {
            self.rule("del", from, to)?;
        }
        Ok(())
    }

    /// Cuts both directions between two sites.
    pub fn cut(&self, one: &str, other: &str) -> Result<()> {
        self.cut_one_way(one, other)?;
        self.cut_one_way(other, one)
    }

    pub fn heal(&self, one: &str, other: &str) -> Result<()> {
        self.heal_one_way(one, other)?;
        self.heal_one_way(other, one)
    }

    /// Cuts a site off from all others.
    pub fn isolate(&self, site: &str) -> Result<()> {
        others(site).try_for_each(|other| self.cut(site, other))
    }

    pub fn reconnect(&self, site: &str) -> Result<()> {
        others(site).try_for_each(|other| self.heal(site, other))
    }

    /// Heals every cut, and makes every way wide again.
    pub fn heal_all(&self) -> Result<()> {
        SITES.iter().try_for_each(|site| {
            self.reconnect(site)?;
            self.widen(site)
        })
    }

    /// Makes what the others send to a site wait: by `netem`, or, where the kernel has none, by a way so narrow that packets
    /// queue up in front of it. Says which.
    pub fn narrow(&self, to: &str, delay_milliseconds: u32) -> Result<String> {
        self.widen(to)?;
        let device = device(to);
        let delay = format!("{delay_milliseconds}ms");
        let tc = |arguments: &[&str]| tool("tc", &[&["-n", &self.name(EXCHANGE)], arguments].concat());
        // Otherwise the watcher, who stands at the exchange, would be slow as well.
        tc(&["qdisc", "add", "dev", &device, "root", "handle", "1:", "htb", "default", "1", "r2q", "1000"])?;
        tc(&["class", "add", "dev", &device, "parent", "1:", "classid", "1:1", "htb", "rate", "10gbit"])?;
        tc(&["class", "add", "dev", &device, "parent", "1:", "classid", "1:2", "htb", "rate", "10gbit"])?;
        let netem = tc(&["qdisc", "add", "dev", &device, "parent", "1:2", "netem", "delay", &delay]);
        let how = if netem.is_ok() {
            format!("netem delay {delay}")
        } else {
            let narrow = ["tbf", "rate", "256kbit", "burst", "1600", "latency", &delay];
            tc(&[&["qdisc", "add", "dev", &device, "parent", "1:2"], narrow.as_slice()].concat())?;
            format!("tbf 256kbit, a queue of {delay} (this kernel has no netem)")
        };
        for from in others(to) {
            let source = Network::address(from).to_string();
            tc(&[
                "filter", "add", "dev", &device, "parent", "1:", "u32", "match", "ip", "src", &source,
                "flowid", "1:2",
            ])?;
        }
        Ok(how)
    }

    /// How many packets have gone the narrow way to a site.
    pub fn narrowed(&self, to: &str) -> Result<u64> {
        let device = device(to);
        let shown = tool("tc", &["-n", &self.name(EXCHANGE), "-s", "class", "show", "dev", &device])?;
        let words: Vec<&str> = shown.split_whitespace().skip_while(|word| *word != "1:2").collect();
        let sent = words.windows(2).find(|pair| pair[1] == "pkt").map(|pair| pair[0]);
        let sent = sent.with_context(|| format!("nothing is narrow to {to}: {shown}"))?;
        sent.parse().with_context(|| format!("reading how many packets went to {to}: {sent}"))
    }

    /// Takes back what `narrow` did.
    pub fn widen(&self, to: &str) -> Result<()> {
        let device = device(to);
        let shown = tool("tc", &["-n", &self.name(EXCHANGE), "qdisc", "show", "dev", &device])?;
        if shown.contains("htb") {
            tool("tc", &["-n", &self.name(EXCHANGE), "qdisc", "del", "dev", &device, "root"])?;
        }
        Ok(())
    }

    /// Runs a story on threads that stand at the exchange. What has to be built is built before, where the world is.
    pub fn watch<T: Send + 'static>(
        progress: impl Fn(&str),
        story: impl AsyncFnOnce(Arc<Network>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        // Before a build that takes minutes.
        ensure_allowed()?;
        Programs::ensure(&progress)?;
        Assets::ensure(&progress)?;
        let network = Network::lay()?;
        let watcher = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            network.enter()?;
            let here = Arc::clone(&network);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .thread_stack_size(STACK_BYTES)
                .on_thread_start(move || {
                    if let Err(error) = here.enter() {
                        // A thread elsewhere would find no site: better nothing than half a network.
                        eprintln!("{error:#}");
                        std::process::exit(1);
                    }
                })
                .build()
                .context("starting the runtime")?;
            runtime.block_on(unless_interrupted(story(network)))
        });
        let watcher = watcher.context("starting a thread at the exchange")?;
        watcher.join().map_err(|_| anyhow!("the story panicked"))?
    }

    /// Moves this thread, and no other, to the exchange.
    fn enter(&self) -> Result<()> {
        let path = self.path(EXCHANGE);
        let entering = || format!("entering the network namespace {}", path.display());
        let namespace = File::open(&path).with_context(entering)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).with_context(entering)
    }

    fn name(&self, site: &str) -> String {
        format!("{}{site}", self.prefix)
    }

    fn path(&self, site: &str) -> PathBuf {
        Path::new(NAMED).join(self.name(site))
    }

    fn make_exchange(&self) -> Result<()> {
        let exchange = self.name(EXCHANGE);
        ip(&["netns", "add", &exchange])?;
        ip(&["-n", &exchange, "link", "set", "lo", "up"])?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        let entrance = self.entrance(EXCHANGE);
        let entrance: Vec<&str> = entrance.iter().skip(1).map(String::as_str).collect();
        tool("nsenter", &[entrance.as_slice(), &["sh", "-c", forward]].concat()).map(drop)
    }

    /// Makes a site's namespace, and its one way to the exchange.
    fn join(&self, site: &str) -> Result<()> {
        let (exchange, name, device) = (self.name(EXCHANGE), self.name(site), device(site));
        let gateway = Ipv4Addr::new(10, 86, third_octet(site), 1).to_string();
        let (near, far) = (format!("{gateway}/24"), format!("{}/24", Network::address(site)));
        ip(&["netns", "add", &name])?;
        ip(&[
            "link", "add", &device, "netns", &exchange, "type", "veth", "peer", "name", "way", "netns", &name,
        ])?;
        ip(&["-n", &exchange, "address", "add", &near, "dev", &device])?;
        ip(&["-n", &exchange, "link", "set", &device, "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "address", "add", &far, "dev", "way"])?;
        ip(&["-n", &name, "link", "set", "way", "up"])?;
        ip(&["-n", &name, "route", "add", "default", "via", &gateway])
    }

    fn is_cut(&self, from: &str, to: &str) -> Result<bool> {
        let rules = tool("ip", &["-n", &self.name(EXCHANGE), "rule", "list"])?;
        let priority = format!("{}:", priority(from, to));
        Ok(rules.lines().any(|rule| rule.starts_with(&priority)))
    }

    fn rule(&self, act: &str, from: &str, to: &str) -> Result<()> {
        let (priority, target) = (priority(from, to).to_string(), Network::address(to).to_string());
        let exchange = self.name(EXCHANGE);
        let rule = ["pref", &priority, "iif", &device(from), "to", &target, "blackhole"];
        ip(&[&["-n", &exchange, "rule", act], rule.as_slice()].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for site in SITES.into_iter().chain([EXCHANGE]) {
            let name = self.name(site);
            if self.path(site).exists()
                && let Err(error) = ip(&["netns", "delete", &name])
            {
                tracing::warn!(%name, error = format!("{error:#}"), "a network namespace is left behind");
            }
        }
    }
}

/// What is interrupted still removes what it has made.
async fn unless_interrupted<T>(story: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        ended = Box::pin(story) => ended,
        _ = ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("asked to end"),
    }
}

fn third_octet(site: &str) -> u8 {
    SITES.iter().position(|known| *known == site).and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(99)
}

fn device(site: &str) -> String {
    format!("to-{site}")
}

/// Rules are looked through in this order; each directed way has a number of its own.
fn priority(from: &str, to: &str) -> u32 {
    100 + u32::from(third_octet(from)) * 10 + u32::from(third_octet(to))
}

fn others(site: &str) -> impl Iterator<Item = &'static str> {
    SITES.into_iter().filter(move |other| *other != site)
}

fn ensure_allowed() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "real faults need network namespaces, which only root may make (CAP_SYS_ADMIN and CAP_NET_ADMIN): run this as root"
    );
    Ok(())
}

/// Removes the namespaces of processes that live no more.
fn remove_stale() -> Result<()> {
    let listed = match fs::read_dir(NAMED) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("listing {NAMED}")),
    };
    for name in listed.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let is_stale = owner
            .is_some_and(|owner| owner.parse::<u32>().is_ok() && !Path::new("/proc").join(owner).exists());
        // Another process may be removing it as well.
        if is_stale && ip(&["netns", "delete", &name]).is_err() && Path::new(NAMED).join(&name).exists() {
            bail!("the network namespace {name} of a dead process cannot be removed: ip netns delete {name}");
        }
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    tool("ip", arguments).map(drop)
}

/// Runs a tool to its end, and returns what it printed.
fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let doing = || format!("running {program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(|error| {
        let is_missing = error.kind() == ErrorKind::NotFound;
        let error = anyhow!(error);
        if is_missing {
            return error.context(format!("{program} is missing: install iproute2 (and util-linux)"));
        }
        error
    });
    let Output { status, stdout, stderr } = output.with_context(doing)?;
    ensure!(status.success(), "{} failed ({status}): {}", doing(), String::from_utf8_lossy(&stderr).trim());
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
