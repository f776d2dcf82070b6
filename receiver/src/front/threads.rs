//! Work that may block (look-ups of names, files), on a thread of its own: where the system starts none, whoever waits is
//! told at once. The runtime's own pool would leave the work in its queue, or panic.

use std::fmt;
use std::io;
use std::thread::Builder;

use tokio::sync::{Semaphore, oneshot};

/// Threads at once; further work waits for one of them to end.
const THREADS_MAX: usize = 64;

static PLACES: Semaphore = Semaphore::const_new(THREADS_MAX);

/// Why work has no result.
#[derive(Debug)]
pub enum Undone {
    /// The system starts no thread for it.
    NoThread(io::Error),
    /// It did not come to its end.
    Broken,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoThread(error) => write!(
                f,
                "the system starts no more threads for it: {error} (see `TasksMax` of the service, `ulimit -u` of its user)"
            ),
            Self::Broken => f.write_str("it ended without a result"),
        }
    }
}

impl std::error::Error for Undone {}

/// Does something that may block. It goes on if nobody waits for it any more.
///
/// # Errors
/// [`Undone`].
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Undone> {
    let place = PLACES.acquire().await.map_err(|_| Undone::Broken)?;
    let (tell, told) = oneshot::channel();
    let run = move || {
        let _place = place;
        // Nobody may wait any more.
        let _ = tell.send(work());
    };
    let started = Builder::new().name("apart".to_owned()).spawn(run);
    started.map_err(Undone::NoThread)?;
    told.await.map_err(|_| Undone::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_has_its_result_and_what_panics_has_none() {
        assert_eq!(apart(|| 7).await.unwrap(), 7);
        let broken = apart(|| std::panic::resume_unwind(Box::new(())));
        assert!(matches!(broken.await, Err::<(), _>(Undone::Broken)));
    }

    #[tokio::test]
    async fn more_work_than_places_comes_to_its_end() {
        let all: Vec<_> = (0..3 * THREADS_MAX)
            .map(|number| tokio::spawn(apart(move || number)))
            .collect();
        for (number, done) in all.into_iter().enumerate() {
            assert_eq!(done.await.unwrap().unwrap(), number);
        }
    }
}
