//! One connection, from hello to its end.

use super::Registry;
use crate::{
    limits::NODES_MAX,
    reconcile::Poke,
    store::{
        Store, StoreError, cluster,
        nodes::{self, Known},
        pools,
    },
};
use spine::{
    id::{Epoch, NodeName, ResourceName, VmId},
    limits::VERSIONS,
    message::{Hello, Welcome},
    session::NodeSaid,
    transport::{BrainLink, accept_node},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::{error, info, warn};
use uuid::Uuid;

/// What every session needs.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Who is connected.
    pub registry: Registry,
    /// Where nodes and pools are written down.
    pub store: Store,
    /// Woken by what nodes say.
    pub poke: Poke,
    /// The cluster's identity.
    pub cluster: Uuid,
    /// This brain's epoch.
    pub epoch: Epoch,
    /// Held while a node is written down as here or gone: the two cannot overtake each other.
    pub nodes_lock: Arc<tokio::sync::Mutex<()>>,
}

/// Connections are numbered over all listeners: the higher one is the newer.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Accepts nodes for ever.
pub async fn listen(listener: TcpListener, fleet: Fleet) {
    let room = Arc::new(Semaphore::new(2 * NODES_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let fleet = fleet.clone();
                tokio::spawn(async move {
                    fleet.serve(accept_node(stream)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: the wait keeps this from turning into a busy loop.
                warn!(%error, "cannot accept a spine connection");
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }
}

impl Fleet {
    async fn serve(self, mut link: BrainLink) {
        let hello = match link.next().await {
            NodeSaid::Hello(hello) => hello,
            NodeSaid::Closed { reason } => return warn!(reason, "a spine connection ended before its hello"),
            _ => return link.close("the first message must be hello"),
        };
        let name = hello.node.clone();
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let spine = match self.admit(&hello, number, &link).await {
            Ok(version) => version,
            Err(reason) => {
                error!(node = %name, reason, "a node is refused");
                self.registry.refuse(&name, hello.role, &reason);
                link.close(&reason);
                while !matches!(link.next().await, NodeSaid::Closed { .. }) {}
                return;
            }
        };
        link.welcome(Welcome { spine, cluster: self.cluster, epoch: self.epoch });
        info!(node = %name, role = %hello.role, "connected");
        let reason = self.follow(&mut link, &name, number).await;
        if self.registry.disconnect(&name, number, &reason) {
            warn!(node = %name, reason, "disconnected");
            if let Err(error) = self.offline(&name).await {
                error!(node = %name, %error, "cannot write down that a node is gone");
            }
            self.poke.all();
        } else {
            info!(node = %name, reason, "an older connection ended");
        }
    }

    /// Checks a hello against the cluster, and lets the node in. Returns the version of the protocol
    /// that both will speak. The error is for the node too.
    async fn admit(&self, hello: &Hello, number: u64, link: &BrainLink) -> Result<u32, String> {
        let Some(version) = VERSIONS.newest_common(hello.spine) else {
            return Err(format!(
                "{} speaks versions {} to {} of the spine, and this brain {} to {}",
                hello.node, hello.spine.oldest, hello.spine.newest, VERSIONS.oldest, VERSIONS.newest
            ));
        };
        if let Some(cluster) = hello.cluster.filter(|cluster| *cluster != self.cluster) {
            return Err(format!("{} belongs to cluster {cluster}, and this brain to {}", hello.node, self.cluster));
        }
        if hello.epoch > self.epoch {
            let client = self.store.client().await.map_err(|error| error.to_string())?;
            cluster::saw_epoch(&client, hello.epoch).await.map_err(|error| error.to_string())?;
            return Err(format!(
                "{} has obeyed a brain of epoch {}, and this one has {}: another brain is active, or the database is \
                 an old copy; an operator can decide for this brain with `bigv-brain take-over`",
                hello.node, hello.epoch, self.epoch
            ));
        }
        let _lock = self.nodes_lock.lock().await;
        match self.register(hello).await.map_err(|error| error.to_string())? {
            Known::New => info!(node = %hello.node, role = %hello.role, "a new node is registered"),
            Known::Same => {}
            Known::Moved { from } => warn!(node = %hello.node, ?from, "its storage address has changed"),
            Known::OtherRole(role) => {
                return Err(format!("{} is registered as a {role}, and calls itself a {}", hello.node, hello.role));
            }
        }
        self.registry.connect(&hello.node, hello.role, number, link.sender());
        Ok(version)
    }

    async fn register(&self, hello: &Hello) -> Result<Known, StoreError> {
        let mut client = self.store.client().await?;
        let tx = client.transaction().await?;
        let known = nodes::register(&tx, hello).await?;
        tx.commit().await?;
        Ok(known)
    }

    async fn offline(&self, name: &NodeName) -> Result<(), StoreError> {
        let _lock = self.nodes_lock.lock().await;
        if self.registry.is_connected(name) {
            return Ok(());
        }
        let mut client = self.store.client().await?;
        let tx = client.transaction().await?;
        nodes::offline(&tx, name).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Applies all that the node says until its connection ends; returns why it did.
    async fn follow(&self, link: &mut BrainLink, name: &NodeName, number: u64) -> String {
        loop {
            let said = link.next().await;
            if let NodeSaid::Closed { reason } = said {
                return reason;
            }
            let concerns = Concerns::of(&said);
            match self.registry.apply(name, number, said) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(reason) => {
                    link.close(&reason);
                    continue;
                }
            }
            match concerns {
                Concerns::Nothing => {}
                Concerns::Vm(id) => self.poke_vm(&id),
                Concerns::Disc(number) => self.poke.disc(number),
                Concerns::Everything => {
                    self.pools_changed(name).await;
                    info!(node = %name, "ready");
                    self.poke.all();
                }
                Concerns::Pools => self.pools_changed(name).await,
            }
        }
    }

    fn poke_vm(&self, id: &VmId) {
        match id.as_str().parse() {
            Ok(id) => self.poke.vm(id),
            Err(_) => self.poke.all(),
        }
    }

    async fn pools_changed(&self, tail: &NodeName) {
        let Some(reported) = self.registry.pools(tail) else { return };
        let written = async {
            let mut client = self.store.client().await?;
            let tx = client.transaction().await?;
            pools::report(&tx, tail, &reported).await?;
            tx.commit().await?;
            Ok::<(), StoreError>(())
        };
        match written.await {
            Ok(()) => self.poke.all(),
            // The tail says it again within a minute; until then what was known stands.
            Err(error) => error!(node = %tail, %error, "cannot write down a tail's pools"),
        }
    }
}

/// Who has to look at what was said.
enum Concerns {
    Nothing,
    Vm(VmId),
    Disc(spine::id::DiscNumber),
    Pools,
    Everything,
}

impl Concerns {
    fn of(said: &NodeSaid) -> Self {
        let name = match said {
            NodeSaid::Ready => return Self::Everything,
            NodeSaid::Created(name, _) | NodeSaid::Updated(name, _) | NodeSaid::Destroyed(name, _) => name,
            _ => return Self::Nothing,
        };
        match name {
            ResourceName::Vm(id) => Self::Vm(id.clone()),
            ResourceName::Disc(disc) => Self::Disc(disc.number),
            ResourceName::Global(global) if global == "storage_pools" => Self::Pools,
            ResourceName::Global(_) | ResourceName::Other(_) => Self::Nothing,
        }
    }
}
