//! Work that blocks, kept off the threads that must not.

/// Runs `work` on a thread where it may block. It is carried to its end even when the caller is dropped.
///
/// # Panics
/// When `work` does.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(test)]
    if crate::sim::stage::is_set() {
        return crate::sim::stage::offload(work).await;
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
