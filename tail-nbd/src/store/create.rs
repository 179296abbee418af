//! `create disc.GRADE.N` (R113–R116, R123).

use super::{
    Store,
    change::record_of,
    disc::{Disc, Held, Phase},
    import::open_image,
    receive::check_incoming,
    refusal::Refusal,
};
use crate::{
    jobs::import::Image,
    offload::offload,
    pool::Pool,
    sidecar::{Record, Sidecar, SidecarError, record::SECTOR_BYTES},
};
use spine::{id::DiscName, resource::disc::DiscOrder};
use std::{net::Ipv6Addr, sync::Arc, time::Duration};

/// How long an answer waits for the disc's address to be up. Later it comes up all the same, and the
/// report says why it is not yet.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(5);

impl Store {
    /// Makes a disc: durable, served (or importing) and with its address up when this returns.
    ///
    /// # Errors
    /// When it is refused; nothing is left over then.
    pub async fn create(self: &Arc<Self>, name: DiscName, order: DiscOrder) -> Result<Ipv6Addr, Refusal> {
        if let Some(existing) = self.find_number(name.number) {
            return same_again(&existing, &name, &order);
        }
        let no_such_pool = || Refusal::NoSuchPool(order.storage_pool.clone());
        let pool = self.parts.pools.get(&order.storage_pool).ok_or_else(no_such_pool)?.clone();
        if pool.grade != name.grade {
            return Err(Refusal::WrongGrade { name, pool: pool.name, grade: pool.grade });
        }
        let record = record_of(&name, &order, self.parts.prefix)?;
        if let Some(incoming) = &order.incoming {
            check_incoming(&name, &order)?;
            let address = record.address;
            return self.expect(record, incoming).await.map(|()| address);
        }
        let image = match &record.importing {
            Some(image) => Some(open_image(&self.parts.images_dir, image, &record).await?),
            None => None,
        };
        let address = record.address;
        let made = offload(move || -> Result<_, Refusal> {
            let image = check_space(&pool, &record, image)?;
            Ok((make_files(&pool, &record)?, image))
        });
        let (sidecar, image) = made.await?;
        let phase = Phase::Failed("it is being made".to_owned());
        let disc = Arc::new(Disc::new(Held { sidecar, data: None, phase, panics_count: 0 }));
        self.open_new(&disc, image).await?;
        if tokio::time::timeout(ADDRESS_DEADLINE, self.parts.addresses.add(address)).await.is_err() {
            tracing::warn!(disc = %name, %address, "the address of a new disc is not up yet");
        }
        Ok(address)
    }

    /// Serves a disc whose files were just made, or starts its import. Takes the files away again if
    /// neither can be done.
    async fn open_new(self: &Arc<Self>, disc: &Arc<Disc>, image: Option<Image>) -> Result<(), Refusal> {
        let Some(held) = disc.held.clone() else { return Ok(()) };
        let mut held = held.lock_owned().await;
        let opened = match self.take_data(&held).await {
            Ok(data) => {
                held.data = Some(data);
                match image {
                    Some(image) => self.start_import(disc, &mut held, image).await,
                    None => self.serve(&held).await.map(|()| held.phase = Phase::Serving),
                }
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = opened {
            let (pool, number) = (self.pool_of(&held).clone(), disc.name.number);
            if let Err(error) = offload(move || pool.delete(number)).await {
                tracing::error!(disc = %disc.name, %error, "the files of a disc that could not be made are left over");
            }
            return Err(refusal);
        }
        self.publish(disc, &held);
        self.insert(disc.clone());
        Ok(())
    }
}

/// Answers an order for a disc that exists: the same may be ordered again.
fn same_again(existing: &Disc, name: &DiscName, order: &DiscOrder) -> Result<Ipv6Addr, Refusal> {
    let report = existing.report();
    let exists = |difference: String| Err(Refusal::Exists { name: existing.name.clone(), difference });
    if existing.held.is_none() {
        return exists(report.reason.unwrap_or_else(|| "files that cannot be used".to_owned()));
    }
    if existing.name != *name {
        return exists(format!("grade {}", existing.name.grade));
    }
    if order.generation < report.generation {
        let (own, given) = (report.generation, order.generation);
        return Err(Refusal::StaleGeneration { name: name.clone(), own, given });
    }
    if order.generation != report.generation {
        return exists(format!("generation {}", report.generation));
    }
    if order.size != report.size {
        return exists(format!("{} bytes", report.size));
    }
    if order.storage_pool != report.storage_pool {
        return exists(format!("storage pool {}", report.storage_pool));
    }
    Ok(report.address)
}

/// Checks that the disc and its image can ever fit. Overcommitting is the brain's to decide, so a disc
/// may be larger than what is free, but not larger than the pool.
fn check_space(pool: &Pool, record: &Record, image: Option<Image>) -> Result<Option<Image>, Refusal> {
    let failed = |what| move |source| Refusal::Io { name: record.name(), what, source };
    let space = pool.space().map_err(failed("ask how full its pool is"))?;
    check_size_in(record, space.size_bytes)?;
    let Some(image) = image else { return Ok(None) };
    let data_bytes = image.data_bytes().map_err(failed("look at its image"))?;
    if data_bytes > space.free_bytes {
        let reason = format!("the image needs {data_bytes} bytes, and {} are free", space.free_bytes);
        return Err(Refusal::PoolFull { pool: pool.name.clone(), reason });
    }
    Ok(Some(image))
}

/// Refuses a size that the whole pool could not hold.
pub(super) fn check_size_in(record: &Record, pool_bytes: u64) -> Result<(), Refusal> {
    if record.size_bytes <= pool_bytes {
        return Ok(());
    }
    Err(Refusal::TooBig {
        what: format!("disc {}", record.name()),
        size_bytes: record.size_bytes,
        largest_bytes: pool_bytes / SECTOR_BYTES * SECTOR_BYTES,
        reason: "that is the size of its storage pool",
    })
}

/// Makes the data file, then the sidecar, which is what makes it a disc.
pub(super) fn make_files(pool: &Pool, record: &Record) -> Result<Sidecar, Refusal> {
    let name = record.name();
    pool.create_data(record.number, record.size_bytes)
        .map_err(|source| Refusal::making(&name, &pool.name, "make the data file", source))?;
    Sidecar::create(&pool.sidecar_path(record.number), record).map_err(|error| {
        if let Err(error) = pool.delete(record.number) {
            tracing::error!(disc = %name, %error, "the files of a disc that could not be made are left over");
        }
        match error {
            SidecarError::Io { source, .. } => Refusal::making(&name, &pool.name, "make the sidecar", source),
            other => other.into(),
        }
    })
}
