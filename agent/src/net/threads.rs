//! Work that may block (look-ups of names, files), on a thread of its own: where the system starts none, whoever waits is
//! told at once, while the runtime's own pool would leave the work in its queue.

use std::io;
use std::thread::Builder;

use tokio::sync::oneshot;

/// Does something that may block. It goes on if nobody waits for it any more.
///
/// # Errors
/// No thread can be started, or the work ended without a result.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    let run = move || {
        // Nobody may wait any more.
        let _ = tell.send(work());
    };
    Builder::new().name("apart".to_owned()).spawn(run)?;
    told.await
        .map_err(|_| io::Error::other("work ended without a result"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_has_its_result_and_what_panics_has_none() {
        assert_eq!(apart(|| 7).await.unwrap(), 7);
        let broken = apart(|| -> () { std::panic::resume_unwind(Box::new(())) });
        assert!(broken.await.is_err());
    }
}
