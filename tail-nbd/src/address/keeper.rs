//! The thread that keeps the discs' addresses on the storage interface. Adding thousands takes seconds
//! in the kernel, so nothing else waits for it.

use super::{
    announce::Announcements,
    netlink::{self, Interface, Netlink, NetlinkError},
    plan,
};
use crate::describe::describe;
use spine::{address::StoragePrefix, id::DiscNumber};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::Future,
    io,
    net::Ipv6Addr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// How often the interface is looked at again: what somebody took away comes back within it, and an
/// address that was taken is asked for again.
const LOOK_PAUSE: Duration = Duration::from_secs(10);

/// Wishes that wait; a few a second is what a brain causes.
const WISHES_MAX: usize = 1024;

/// What a keeper works on.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// The interface's name.
    pub interface: String,
    /// The /64 whose addresses on that interface are the keeper's alone.
    pub prefix: StoragePrefix,
}

/// A handle on the keeper. When it is dropped the thread ends, and the addresses stay.
#[derive(Debug)]
pub struct Addresses {
    wishes: mpsc::Sender<Wish>,
    troubles: Arc<Mutex<BTreeMap<Ipv6Addr, String>>>,
}

#[derive(Debug)]
enum Wish {
    Add(Ipv6Addr, oneshot::Sender<()>),
    Remove(Ipv6Addr, oneshot::Sender<()>),
    Hush(Ipv6Addr, oneshot::Sender<()>),
    Announce(Vec<Ipv6Addr>),
}

impl Addresses {
    /// Starts the thread. `owned` are the addresses of the discs that are here; `changed` is called
    /// with a disc's number whenever [`Addresses::trouble`] has something new to say of it.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        config: KeeperConfig,
        owned: BTreeSet<Ipv6Addr>,
        changed: impl Fn(DiscNumber) + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_after(std::future::ready(()), config, owned, changed)
    }

    /// As [`Addresses::start`], but nothing is touched before `begin` is over.
    ///
    /// # Errors
    /// As [`Addresses::start`].
    pub fn start_after(
        begin: impl Future<Output = ()> + Send + 'static,
        config: KeeperConfig,
        owned: BTreeSet<Ipv6Addr>,
        changed: impl Fn(DiscNumber) + Send + 'static,
    ) -> io::Result<Self> {
        let (wishes, receiver) = mpsc::channel(WISHES_MAX);
        let troubles = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let keeper = Keeper {
            config,
            wanted: owned.into_iter().map(|address| (address, State::Unknown)).collect(),
            to_add: VecDeque::new(),
            announcements: Announcements::default(),
            interface: None,
            waiting: BTreeMap::new(),
            troubles: Arc::clone(&troubles),
            changed: Box::new(changed),
        };
        let run = async move {
            begin.await;
            keeper.run(receiver).await;
        };
        thread::Builder::new().name("addresses".into()).spawn(move || runtime.block_on(run))?;
        Ok(Self { wishes, troubles })
    }

    /// Without an interface: the addresses that are up are in `up` while somebody does the work that is returned.
    #[cfg(test)]
    pub(crate) fn without_interface(up: Arc<Mutex<BTreeSet<Ipv6Addr>>>) -> (Self, impl Future<Output = ()>) {
        let (wishes, mut receiver) = mpsc::channel(WISHES_MAX);
        let work = async move {
            while let Some(wish) = receiver.recv().await {
                let mut up = up.lock().unwrap_or_else(PoisonError::into_inner);
                match wish {
                    Wish::Add(address, done) => drop((up.insert(address), done.send(()))),
                    Wish::Remove(address, done) => drop((up.remove(&address), done.send(()))),
                    Wish::Hush(_, done) => drop(done.send(())),
                    Wish::Announce(_) => {}
                }
            }
        };
        (Self { wishes, troubles: Arc::default() }, work)
    }

    /// Wants an address up; returns when it is.
    pub async fn add(&self, address: Ipv6Addr) {
        self.wish(|done| Wish::Add(address, done)).await;
    }

    /// Wants an address gone; returns when it was tried.
    pub async fn remove(&self, address: Ipv6Addr) {
        self.wish(|done| Wish::Remove(address, done)).await;
    }

    /// Announces an address no more, though it stays up until it is removed: another machine is about to have it, and
    /// a late word of ours would lead its clients back here. Returns when no more is sent.
    pub async fn hush(&self, address: Ipv6Addr) {
        self.wish(|done| Wish::Hush(address, done)).await;
    }

    /// Announces those of these addresses that are up once more.
    pub async fn announce(&self, addresses: Vec<Ipv6Addr>) {
        // Without a keeper there is nobody left to do it for.
        let _ = self.wishes.send(Wish::Announce(addresses)).await;
    }

    /// Why an address that is wanted is not up; none when it is, or soon will be.
    pub fn trouble(&self, address: Ipv6Addr) -> Option<String> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    async fn wish(&self, wish: impl FnOnce(oneshot::Sender<()>) -> Wish) {
        let (done, receiver) = oneshot::channel();
        if self.wishes.send(wish(done)).await.is_ok() {
            // An error says that the wish was overtaken by another one for the address.
            let _ = receiver.await;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At start: it is up, or it is probed for.
    Unknown,
    /// It may be added without asking: nobody had it, or it is a new disc's.
    Free,
    /// It is on the interface.
    Up,
    /// It is on the interface, and another machine is about to have it.
    Leaving,
    /// Somebody else answers for it.
    Taken,
}

struct Keeper {
    config: KeeperConfig,
    wanted: BTreeMap<Ipv6Addr, State>,
    to_add: VecDeque<Ipv6Addr>,
    announcements: Announcements,
    interface: Option<Interface>,
    waiting: BTreeMap<Ipv6Addr, oneshot::Sender<()>>,
    troubles: Arc<Mutex<BTreeMap<Ipv6Addr, String>>>,
    changed: Box<dyn Fn(DiscNumber) + Send>,
}

impl Keeper {
    async fn run(mut self, mut wishes: mpsc::Receiver<Wish>) {
        let mut netlink = None;
        let mut look_at = Instant::now();
        loop {
            if Instant::now() >= look_at {
                if let Err(error) = self.look(&mut netlink).await {
                    tracing::error!(
                        interface = self.config.interface,
                        error = describe(&error),
                        "the discs' addresses cannot be kept"
                    );
                    self.all_in_trouble(&describe(&error));
                    (netlink, self.interface) = (None, None);
                }
                look_at = Instant::now() + LOOK_PAUSE;
            }
            if let (Some(netlink), Some(interface)) = (&netlink, self.interface) {
                self.announce(interface);
                if let Some(address) = self.to_add.pop_front() {
                    self.add(netlink, interface, address).await;
                }
            }
            let mut wake_at = self.announcements.next().map_or(look_at, |next| next.min(look_at));
            if !self.to_add.is_empty() && self.interface.is_some() {
                wake_at = Instant::now();
            }
            // Wishes first: the addresses of a start must not hold up the disc that is made meanwhile.
            tokio::select! {
                biased;
                wish = wishes.recv() => match wish {
                    Some(wish) => self.handle(wish, netlink.as_ref()).await,
                    None => return,
                },
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
        }
    }

    /// Compares the interface with what is wanted: removes at once, and queues what is to be added.
    async fn look(&mut self, netlink: &mut Option<Netlink>) -> Result<(), NetlinkError> {
        let netlink = match netlink {
            Some(netlink) => netlink,
            None => netlink.insert(Netlink::open()?),
        };
        let interface = netlink.interface(&self.config.interface).await?;
        if self.interface.is_some_and(|before| before != interface) {
            tracing::warn!(interface = self.config.interface, "the storage interface was replaced");
        }
        self.interface = Some(interface);
        let observed = netlink.addresses(interface).await?;
        let plan = plan(&self.wanted.keys().copied().collect(), &observed, self.config.prefix);
        for address in plan.remove {
            tracing::warn!(%address, "removing an address that no disc here has");
            // The others must not suffer; it is tried again at the next look.
            if let Err(error) = netlink.remove(interface, address).await {
                tracing::error!(%address, error = describe(&error), "an address that no disc here has stays for now");
            }
        }
        // Those that are known to be up are the most, and there is nothing to say of them.
        let is_known = |state: &State| matches!(state, State::Up | State::Leaving);
        let news = |(address, state): &(&Ipv6Addr, &State)| !is_known(state) && observed.contains(address);
        let present: Vec<_> = self.wanted.iter().filter(news).map(|(address, _)| *address).collect();
        for address in present {
            self.is_up(address);
        }
        self.probe(interface, &plan.add)?;
        self.to_add = plan.add.into_iter().filter(|address| self.wanted.get(address) == Some(&State::Free)).collect();
        Ok(())
    }

    /// Decides about addresses that are not up. One that we had, or that is new, need not be asked for.
    fn probe(&mut self, interface: Interface, missing: &[Ipv6Addr]) -> Result<(), NetlinkError> {
        let doubtful = |address: &&Ipv6Addr| matches!(self.wanted[*address], State::Unknown | State::Taken);
        let asked: BTreeSet<_> = missing.iter().filter(doubtful).copied().collect();
        let taken = if asked.is_empty() { BTreeSet::new() } else { netlink::probe(interface, &asked)? };
        for address in missing {
            if taken.contains(address) {
                tracing::error!(%address, "address-taken: another machine answers for the address of a disc");
                self.wanted.insert(*address, State::Taken);
                let reason = format!("address-taken: another machine on the storage LAN answers for {address}");
                self.set_trouble(*address, Some(reason));
            } else {
                self.wanted.insert(*address, State::Free);
            }
        }
        Ok(())
    }

    async fn add(&mut self, netlink: &Netlink, interface: Interface, address: Ipv6Addr) {
        // It may have been withdrawn, or added before its turn, since it was queued.
        if self.wanted.get(&address) != Some(&State::Free) {
            return;
        }
        match netlink.add(interface, address).await {
            Ok(()) => {
                // Somebody is about to send clients there.
                if self.waiting.contains_key(&address) && !netlink.wait_until_local(address).await {
                    tracing::warn!(%address, "the kernel does not take in packets for the address of a disc yet");
                }
                self.is_up(address);
            }
            Err(error) => {
                tracing::error!(error = describe(&error), "the address of a disc is not up");
                self.set_trouble(address, Some(describe(&error)));
            }
        }
    }

    fn is_up(&mut self, address: Ipv6Addr) {
        if self.wanted.insert(address, State::Up) != Some(State::Up) {
            self.announcements.add(address, Instant::now());
        }
        self.set_trouble(address, None);
        if let Some(done) = self.waiting.remove(&address) {
            // Who waits sends clients here at once, and they must not ask the machine that had the address before.
            if let Some(interface) = self.interface {
                self.announce(interface);
            }
            // An error says that nobody waits any more.
            let _ = done.send(());
        }
    }

    async fn handle(&mut self, wish: Wish, netlink: Option<&Netlink>) {
        match wish {
            Wish::Add(address, done) => {
                self.waiting.insert(address, done);
                self.wanted.entry(address).or_insert(State::Free);
                match (netlink, self.interface) {
                    (Some(netlink), Some(interface)) if self.wanted[&address] != State::Up => {
                        self.add(netlink, interface, address).await;
                    }
                    (Some(_), Some(_)) => self.is_up(address),
                    _ => self.set_trouble(address, Some(format!("there is no interface {}", self.config.interface))),
                }
            }
            Wish::Announce(addresses) => {
                let up = addresses.into_iter().filter(|address| self.wanted.get(address) == Some(&State::Up));
                let now = Instant::now();
                up.for_each(|address| self.announcements.again(address, now));
            }
            Wish::Hush(address, done) => {
                if let Some(state) = self.wanted.get_mut(&address) {
                    *state = State::Leaving;
                }
                self.announcements.remove(address);
                // An error says that nobody waits any more.
                let _ = done.send(());
            }
            Wish::Remove(address, done) => {
                self.wanted.remove(&address);
                self.waiting.remove(&address);
                self.announcements.remove(address);
                self.set_trouble(address, None);
                if let (Some(netlink), Some(interface)) = (netlink, self.interface)
                    && let Err(error) = netlink.remove(interface, address).await
                {
                    tracing::error!(error = describe(&error), "the address of a removed disc stays for now");
                }
                let _ = done.send(());
            }
        }
    }

    fn announce(&mut self, interface: Interface) {
        for address in self.announcements.due(Instant::now()) {
            if let Err(error) = netlink::announce(interface, address) {
                tracing::warn!(%address, error = describe(&error), "an address could not be announced");
            }
        }
    }

    fn all_in_trouble(&mut self, reason: &str) {
        let wanted: Vec<_> = self.wanted.keys().copied().collect();
        for address in wanted {
            self.set_trouble(address, Some(reason.to_owned()));
        }
    }

    fn set_trouble(&self, address: Ipv6Addr, trouble: Option<String>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match trouble.clone() {
            Some(reason) => troubles.insert(address, reason),
            None => troubles.remove(&address),
        };
        drop(troubles);
        if before != trouble
            && let Some(number) = self.config.prefix.number_of(address)
        {
            (self.changed)(number);
        }
    }
}
