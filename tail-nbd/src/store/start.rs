//! What happens at start: finding the discs, and serving them from their sidecars alone (R177,
//! safety rules 2, 10, 11).

use super::{
    Store,
    disc::{Disc, Held, Phase},
    import,
    receive::moving_of,
    refusal::Refusal,
};
use crate::{
    describe::describe,
    offload::offload,
    pool::{Found, Pool, PoolError},
    shard::{OpenDisc, never_pace},
    sidecar::{Owner, Sidecar},
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use socket2::{Domain, Protocol, Socket, Type};
use spine::{
    address::StoragePrefix,
    id::{DiscName, DiscNumber, PoolName},
    limits::NBD_PORT,
};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddrV6, TcpListener},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// How long a predecessor's last writes may hold a disc's lock, and its last accept the disc's port. A
/// write that takes longer hangs in the kernel, and then the disc must not be served.
const LOCK_DEADLINE: Duration = Duration::from_secs(30);

/// How long a start waits for all discs before it goes on with those that are open.
const READY_DEADLINE: Duration = Duration::from_secs(3);

/// How often a lock is tried.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Connections that may wait to be accepted on one disc: a VM migration has two clients, with a few
/// connections each.
const BACKLOG: i32 = 64;

/// What was found in the pools.
#[derive(Debug, Default)]
pub struct Scan {
    pub(super) sidecars: Vec<Sidecar>,
    refused: Vec<Disc>,
}

impl Scan {
    /// Looks through the pools, carries on with what a crash interrupted, and reads every sidecar.
    /// Blocks.
    ///
    /// # Errors
    /// When a pool's folder cannot be read. What is wrong with one disc is kept for its report.
    pub fn read(pools: &BTreeMap<PoolName, Pool>, prefix: StoragePrefix) -> Result<Self, PoolError> {
        let mut places: BTreeMap<DiscNumber, Vec<(&Pool, Found)>> = BTreeMap::new();
        for pool in pools.values() {
            for (number, found) in pool.scan()? {
                places.entry(number).or_default().push((pool, found));
            }
        }
        let mut scan = Self::default();
        for (number, places) in places {
            let pool = places[0].0;
            let outcome = match places[..] {
                [(pool, found)] => read_one(pool, number, found, prefix),
                _ => {
                    let pools: Vec<_> = places.iter().map(|(pool, _)| pool.name.as_str()).collect();
                    Err(format!("its files are in several pools: {}", pools.join(", ")))
                }
            };
            match outcome {
                Ok(sidecar) => scan.sidecars.extend(sidecar),
                Err(reason) => {
                    let name = DiscName { grade: pool.grade.clone(), number };
                    tracing::error!(disc = %name, pool = %pool.name, reason, "a disc cannot be served");
                    scan.refused.push(Disc::refused(name, pool.name.clone(), prefix.address_of(number), reason));
                }
            }
        }
        Ok(scan)
    }

    /// The addresses that this tail owns: all others under the prefix are to go (safety rule 11).
    pub fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        let owned = |sidecar: &&Sidecar| sidecar.record().owner == Owner::Owner;
        self.sidecars.iter().filter(owned).map(|sidecar| sidecar.record().address)
    }
}

/// Reads the sidecar of one disc. None when the disc was half-made or half-deleted, and is gone now.
fn read_one(pool: &Pool, number: DiscNumber, found: Found, prefix: StoragePrefix) -> Result<Option<Sidecar>, String> {
    if !found.sidecar {
        return discard_half_made(pool, number).map(|()| None);
    }
    let sidecar = Sidecar::open(&pool.sidecar_path(number)).map_err(|error| describe(&error))?;
    let record = sidecar.record();
    let misplaced = |what: &str| Err(format!("the sidecar {} is of {what}", sidecar.path().display()));
    if record.number != number {
        return misplaced(&format!("disc {}", record.number));
    }
    if record.pool != pool.name || record.grade != pool.grade {
        return misplaced(&format!("storage pool {} and grade {}", record.pool, record.grade));
    }
    if record.address != prefix.address_of(number) {
        return misplaced(&format!("another storage prefix: its address is {}", record.address));
    }
    if record.owner == Owner::Removed {
        tracing::warn!(disc = %record.name(), pool = %pool.name, "carrying on with the deletion of a disc");
        return pool.delete(number).map(|()| None).map_err(|error| format!("its deletion did not finish: {error}"));
    }
    Ok(Some(sidecar))
}

/// A data file without a sidecar is half-made when it is empty; with data in it, a sidecar was lost,
/// and that is for an operator to look at.
fn discard_half_made(pool: &Pool, number: DiscNumber) -> Result<(), String> {
    let path = pool.data_path(number);
    let metadata = fs::symlink_metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if metadata.blocks() > 0 {
        return Err(format!("{} has data and no sidecar", path.display()));
    }
    tracing::warn!(disc = %number, pool = %pool.name, path = %path.display(), "deleting a half-made disc");
    pool.delete(number).map_err(|error| format!("cannot delete {}: {error}", path.display()))
}

impl Store {
    /// Takes in what was found and serves it. Returns when each disc is served, importing or failed, or
    /// after [`READY_DEADLINE`]: a disc that is still locked must not keep the others from their brain.
    pub async fn start(self: &Arc<Self>, scan: Scan) {
        let (starting, mut started) = tokio::sync::mpsc::channel::<()>(1);
        for disc in scan.refused {
            self.insert(Arc::new(disc));
        }
        for sidecar in scan.sidecars {
            let phase = Phase::Failed("it is being opened, and waits until no older write is on its way".to_owned());
            let disc = Arc::new(Disc::new(Held { sidecar, data: None, phase, panics_count: 0 }));
            self.insert(disc.clone());
            let (store, starting) = (self.clone(), starting.clone());
            self.spawn(async move {
                store.start_disc(&disc).await;
                drop(starting);
            });
        }
        drop(starting);
        // Nothing is ever sent: the channel ends when the last of them has dropped its end.
        if tokio::time::timeout(READY_DEADLINE, started.recv()).await.is_err() {
            tracing::warn!("some discs are not open yet; the others are served");
        }
    }

    /// Puts a disc into the list.
    pub(super) fn insert(&self, disc: Arc<Disc>) {
        super::lock(&self.discs).insert(disc.name.number, disc.clone());
        self.changed.mark(disc.name.number);
    }

    async fn start_disc(self: &Arc<Self>, disc: &Arc<Disc>) {
        let Some(held) = disc.held.clone() else { return };
        let mut held = held.lock_owned().await;
        // It was ordered to be deleted before its turn came: what has its name by now is another one.
        if held.record().owner == Owner::Removed {
            return;
        }
        let started = match self.take_data(&held).await {
            Ok(data) => self.put_to_work(disc, &mut held, data).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = started {
            tracing::error!(disc = %disc.name, reason = describe(&refusal), "a disc cannot be served");
            held.phase = Phase::Failed(describe(&refusal));
        }
        self.publish(disc, &held);
    }

    /// Serves a disc whose data was taken, or carries on with its import.
    pub(super) async fn put_to_work(
        self: &Arc<Self>,
        disc: &Arc<Disc>,
        held: &mut Held,
        data: File,
    ) -> Result<(), Refusal> {
        held.data = Some(data);
        match held.record().owner.clone() {
            Owner::Owner => {}
            Owner::Removed => return Ok(()),

            Owner::Incoming(order) | Owner::Prepared(order, _) => {
                held.phase = Phase::Receiving;
                disc.set_moving(moving_of(&order, held.record().generation));
                return Ok(());
            }
            Owner::Fenced(order, attempt) => {
                held.phase = Phase::Moved;
                self.repeat_commit(disc, order, attempt).await;
                return Ok(());
            }
            Owner::Retired(_) | Owner::Superseded { .. } => {
                held.phase = Phase::Moved;
                return Ok(());
            }
        }
        match held.record().importing.clone() {
            Some(image) => self.resume_import(disc, held, image).await,
            None => self.serve(held).await.map(|()| held.phase = Phase::Serving),
        }
    }

    async fn resume_import(
        self: &Arc<Self>,
        disc: &Arc<Disc>,
        held: &mut Held,
        image: spine::id::ImageName,
    ) -> Result<(), Refusal> {
        tracing::info!(disc = %disc.name, %image, "starting an interrupted import again");
        let image = import::open_image(&self.parts.images_dir, &image, held.record()).await?;
        self.start_import(disc, held, image).await
    }

    /// Opens and locks a disc's data file, and gives it the length that the record says.
    pub(super) async fn take_data(&self, held: &Held) -> Result<File, Refusal> {
        let record = held.record();
        let (name, size_bytes) = (record.name(), record.size_bytes);
        let path = self.pool_of(held).data_path(record.number);
        let failed = |what| {
            let name = name.clone();
            move |source| Refusal::Io { name, what, source }
        };
        let opening = path.clone();
        let data = offload(move || open_data(&opening)).await.map_err(failed("open its data"))?;
        lock_data(&data).await.map_err(failed("get the lock of its data"))?;
        let length_bytes = data.metadata().map_err(failed("look at its data"))?.len();
        if length_bytes < size_bytes {
            let reason =
                format!("{} has {length_bytes} bytes, and the disc {size_bytes}: its end is lost", path.display());
            return Err(Refusal::Unusable { name, reason });
        }
        if length_bytes > size_bytes {
            // A resize was interrupted before it was recorded (growing: nobody has seen the new part)
            // or before it was carried out (shrinking: it was checked before it was recorded).
            tracing::warn!(disc = %name, length_bytes, size_bytes, "cutting a data file to the size of its disc");
            data.set_len(size_bytes).and_then(|()| data.sync_all()).map_err(failed("set the size of its data"))?;
        }
        Ok(data)
    }

    /// Gives a disc to its shard.
    pub(super) async fn serve(&self, held: &Held) -> Result<(), Refusal> {
        let record = held.record();
        let failed = |what| move |source| Refusal::Io { name: record.name(), what, source };
        let data = held
            .data
            .as_ref()
            .ok_or_else(|| Refusal::Unusable { name: record.name(), reason: "its data is not open".to_owned() })?;
        let disc = OpenDisc {
            number: record.number,
            data: data.try_clone().map_err(failed("duplicate the descriptor of its data"))?,
            io: self.pool_of(held).io,
            size_bytes: record.size_bytes,
            listener: Some(listen_soon(record.address).await.map_err(failed("listen on its address"))?),
            access: held.access(),
            own_address: IpAddr::V6(self.parts.own_address),
            sync_failed: record.flush_failed,
        };
        Ok(self.parts.shards.open(disc).await?)
    }
}

fn open_data(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a file", path.display())));
    }
    Ok(file)
}

/// Waits, with a deadline, until nobody else has the file's lock: then no write of a predecessor is
/// on its way any more (safety rule 10).
async fn lock_data(file: &File) -> io::Result<()> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => tokio::time::sleep(LOCK_PAUSE).await,
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process has it open"));
            }
            other => return Ok(other?),
        }
    }
}

/// Listens, waiting with a deadline while a killed predecessor's listener lives on: the accept that its
/// ring had in the kernel is ended only some time after the process.
async fn listen_soon(address: Ipv6Addr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        match listen(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            other => return other,
        }
    }
}

/// Listens on an address that need not be up yet (IPV6_FREEBIND, ipv6(7); safety rule 12).
fn listen(address: Ipv6Addr) -> io::Result<TcpListener> {
    #[cfg(test)]
    if crate::sim::stage::is_set() {
        return TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0));
    }
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_freebind_v6(true)?;
    never_pace(&socket);
    socket.bind(&SocketAddrV6::new(address, NBD_PORT, 0, 0).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
