//! [`Stop`]: says once, to everybody, that it is time to end.

use tokio::sync::watch;

/// The receiving side; cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// The side that says so. Dropping it says so too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// A pair.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Stop(receiver))
    }

    /// Says that it is time.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns once it is time.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.clone();
        // An error means that the other side is gone: then it is time as well.
        let _ = receiver.wait_for(|stopped| *stopped).await;
    }

    /// Whether it is time.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
