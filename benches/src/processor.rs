//! Processor time and memory of a process, and which processors it may use.

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{fs, time::Duration};

/// The processor time of a process at one moment.
///
/// `schedstat` has nanoseconds, for each thread that lives; io_uring's workers are among them. A thread
/// that ends takes its time along; `stat` still has it, in ticks. So the first is used, unless the second
/// shows that something is missing there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    threads: Duration,
    process: Duration,
    waited: Duration,
}

/// Linux counts `stat` in USER_HZ, 100 a second on every architecture that this runs on.
const TICK: Duration = Duration::from_millis(10);

impl CpuTime {
    /// What process `pid` has used.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let folder = format!("/proc/{pid}/task");
        let (mut threads, mut waited) = (Duration::ZERO, Duration::ZERO);
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(entry?.path().join("schedstat")) else { continue };
            let mut fields = text.split(' ').map_while(|word| word.parse().ok()).map(Duration::from_nanos);
            let (on, behind) = fields.next().zip(fields.next()).context("a schedstat of an unknown form")?;
            threads += on;
            waited += behind;
        }
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let ticks = ticks(&text).with_context(|| format!("{path} has an unknown form"))?;
        Ok(Self { threads, process: TICK * ticks, waited })
    }

    /// The time used since `before`.
    pub fn since(self, before: Self) -> Duration {
        let threads = self.threads.saturating_sub(before.threads);
        let process = self.process.saturating_sub(before.process);
        // Both ends of `process` are rounded down to a tick, user and system time each.
        if process > threads + 4 * TICK { process } else { threads }
    }

    /// How long its threads were ready to run since `before`, and something else had their processor.
    pub fn waited_since(self, before: Self) -> Duration {
        self.waited.saturating_sub(before.waited)
    }
}

/// `utime` and `stime`: fields 14 and 15 of proc_pid_stat(5). The name before them may have spaces.
fn ticks(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u32>().ok();
    next()?.checked_add(next()?)
}

/// The most memory that process `pid` has had resident, in KiB.
///
/// # Errors
/// When there is no such process.
pub fn rss_peak_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let peak = status_field(&text, "VmHWM").and_then(|value| value.trim_end_matches(" kB").parse().ok());
    peak.with_context(|| format!("{path} has no VmHWM"))
}

/// Memory of process `pid` that is its own, in KiB: resident, and not of a file.
///
/// # Errors
/// When there is no such process.
pub fn anonymous_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let own = status_field(&text, "RssAnon").and_then(|value| value.trim_end_matches(" kB").parse().ok());
    own.with_context(|| format!("{path} has no RssAnon"))
}

/// How many threads of process `pid` may run on another processor than `cpu`.
///
/// # Errors
/// When there is no such process.
pub fn threads_unpinned_count(pid: u32, cpu: usize) -> Result<usize> {
    let folder = format!("/proc/{pid}/task");
    let mut count = 0;
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // A thread that has just ended runs nowhere.
        let Ok(text) = fs::read_to_string(entry?.path().join("status")) else { continue };
        count += usize::from(status_field(&text, "Cpus_allowed_list") != Some(&cpu.to_string()));
    }
    Ok(count)
}

fn status_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(str::trim)
}

/// Lets this thread, and what it starts from now on, run on `cpu` alone.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on processor {cpu} alone"))
}

/// Sets the niceness of this process, and of what it starts from now on.
///
/// Where the kernel shares processors among sessions first, niceness only counts inside a session: so the session gets it
/// too, and keeps it.
///
/// # Errors
/// When the kernel refuses: below 0 needs root.
pub fn set_nice(nice: i32) -> Result<()> {
    let refused = || format!("cannot have a niceness of {nice}; below 0 needs root");
    rustix::process::setpriority_process(None, nice).with_context(refused)?;
    let grouped = fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled");
    if grouped.is_ok_and(|text| text.trim() == "1") {
        fs::write("/proc/self/autogroup", nice.to_string()).with_context(refused)?;
    }
    Ok(())
}

/// Two processors: the server's and the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// For the servers.
    pub server: usize,
    /// For the clients.
    pub client: usize,
}

impl Pair {
    /// Those that were asked for; else the first that this process may use, and the first after it that is not
    /// its other hyper-thread.
    ///
    /// # Errors
    /// When there are no two.
    pub fn choose(server: Option<usize>, client: Option<usize>) -> Result<Self> {
        let set = sched_getaffinity(None).context("cannot ask which processors may be used")?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
        let siblings = |cpu: usize| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            // Without the file nothing is known of siblings, and any other processor will do.
            fs::read_to_string(path).map(|text| cpu_list(&text)).unwrap_or_default()
        };
        Self::among(&allowed, server, client, siblings)
    }

    fn among(
        allowed: &[usize],
        server: Option<usize>,
        client: Option<usize>,
        siblings: impl Fn(usize) -> Vec<usize>,
    ) -> Result<Self> {
        for cpu in [server, client].into_iter().flatten() {
            if !allowed.contains(&cpu) {
                bail!("processor {cpu} is not among those that may be used: {allowed:?}");
            }
        }
        let others = |taken: Option<usize>| {
            let mut free = allowed.iter().copied().filter(move |cpu| Some(*cpu) != taken);
            free.next().context("two processors are needed, one for the server and one for the client")
        };
        let server = server.map_or_else(|| others(client), Ok)?;
        let same_core = siblings(server);
        let own_core = allowed.iter().copied().find(|cpu| *cpu != server && !same_core.contains(cpu));
        let client = client.or(own_core).map_or_else(|| others(Some(server)), Ok)?;
        if client == server {
            bail!("the server and the client must not share processor {server}");
        }
        Ok(Self { server, client })
    }
}

/// `0-1,4` as numbers; what is no such list has none.
fn cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<usize>().ok()?);
        (last < CpuSet::MAX_CPU).then_some(first..=last)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_of_a_process_rises() {
        let pid = std::process::id();
        let before = CpuTime::of(pid).unwrap();
        let mut sum = 0u64;
        while CpuTime::of(pid).unwrap().since(before).is_zero() {
            sum = std::hint::black_box(sum + 1);
        }
    }

    #[test]
    fn time_of_threads_that_ended_is_not_lost() {
        let time = |threads, process| CpuTime {
            threads: Duration::from_millis(threads),
            process: Duration::from_millis(process),
            waited: Duration::ZERO,
        };
        assert_eq!(time(130, 120).since(time(30, 20)), Duration::from_millis(100));
        assert_eq!(time(10, 920).since(time(30, 20)), Duration::from_millis(900));
    }

    #[test]
    fn the_ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 33 44 0 0 20 0 1 0 5 1 1";
        assert_eq!(ticks(stat), Some(77));
        assert_eq!(ticks("7 (a) S 1"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn memory_and_threads_of_this_process() {
        let pid = std::process::id();
        assert!(rss_peak_kib(pid).unwrap() > 100);
        assert!((1..=rss_peak_kib(pid).unwrap()).contains(&anonymous_kib(pid).unwrap()));
        assert_eq!(
            threads_unpinned_count(pid, CpuSet::MAX_CPU).unwrap(),
            std::fs::read_dir("/proc/self/task").unwrap().count()
        );
    }

    #[test]
    fn server_and_client_get_a_core_each() {
        let pair = |allowed: &[usize], server, client| {
            Pair::among(allowed, server, client, |cpu| vec![cpu & !1, cpu | 1]).ok().map(|p| (p.server, p.client))
        };
        assert_eq!(pair(&[0, 1, 2, 3], None, None), Some((0, 2)));
        assert_eq!(pair(&[0, 1], None, None), Some((0, 1)), "a sibling is better than nothing");
        assert_eq!(pair(&[0, 1, 2, 3], Some(2), None), Some((2, 0)));
        assert_eq!(pair(&[0, 1, 2, 3], None, Some(0)), Some((1, 0)));
        assert_eq!(pair(&[0], None, None), None);
        assert_eq!(pair(&[0, 1], Some(1), Some(1)), None);
        assert_eq!(pair(&[0, 1], Some(7), None), None);
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(cpu_list("x,-,1-99999999"), Vec::<usize>::new());
    }
}
