//! Waiting to be the only one who holds something.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What `shared` holds, once nobody else has a share of it any more. Tasks that were aborted still hold theirs for a
/// moment. None when that takes longer than `patience`: somebody was forgotten.
pub async fn take<T>(shared: Arc<T>, patience: Duration) -> Option<T> {
    let deadline = Instant::now() + patience;
    while Arc::strong_count(&shared) > 1 && Instant::now() < deadline {
        sleep(PAUSE).await;
    }
    Arc::into_inner(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_get_so_much_time_and_no_more() {
        let shared = Arc::new(7);
        let other = Arc::clone(&shared);
        tokio::spawn(async move { drop(other) });
        assert_eq!(take(shared, Duration::from_secs(60)).await, Some(7));
        let shared = Arc::new(7);
        let _other = Arc::clone(&shared);
        assert_eq!(take(shared, Duration::ZERO).await, None);
    }
}
