//! Room in the process's table of open files, taken before anybody could have to wait for it.
//!
//! The kernel doubles the table when it is full. In a process with several threads it then waits until every processor has
//! passed a quiet moment, and so does the thread that wanted a descriptor: 8 to 130 ms on a busy machine, sometimes seconds.
//! When that is a shard, which accepts a client or copies a socket, all its clients wait. With one thread there is nothing to
//! wait for.

use crate::limits::OPEN_FILES_RESERVED;
use rustix::io::fcntl_dupfd_cloexec;
use std::{fs::File, io};

/// Makes room for as many descriptors as are allowed, at most [`OPEN_FILES_RESERVED`]. To be called while the process has
/// one thread. Without that room all goes on, and clients may have to wait now and then.
pub fn reserve(open_files_max: u64) {
    if let Err(error) = grow_to(open_files_max.min(OPEN_FILES_RESERVED)) {
        tracing::warn!(%error, "no room could be made for open files: clients may wait while there are more and more of them");
    }
}

fn grow_to(count: u64) -> io::Result<()> {
    let last = i32::try_from(count).map_err(io::Error::other)? - 1;
    let any = File::open("/dev/null")?;
    // The table stays as large as it was made.
    Ok(fcntl_dupfd_cloexec(&any, last.max(0)).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table_size() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        line.trim().parse().unwrap()
    }

    #[test]
    fn there_is_room_for_as_many_as_are_allowed_and_it_stays() {
        let allowed = spine::daemon::raise_open_files();
        reserve(allowed);
        assert!(table_size() >= allowed.min(OPEN_FILES_RESERVED), "{} of {allowed}", table_size());
        assert!(grow_to(0).is_ok(), "what is there is enough");
        assert!(grow_to(u64::MAX).is_err());
    }
}
