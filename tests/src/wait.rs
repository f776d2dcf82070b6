//! Waiting for a condition with a deadline. A test never sleeps for a time it guessed.

use std::thread;
use std::time::{Duration, Instant};

const POLL_FIRST: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(50);

/// Asks `condition` until it holds; panics with `what` when `timeout` has passed.
#[track_caller]
pub fn wait_until(timeout: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(timeout, what, || {
        if condition() {
            Ok(())
        } else {
            Err(String::new())
        }
    });
}

/// Asks `count` until it is `enough` or more; panics with `what` when it has not grown for `timeout`: how long all of it takes is up
/// to the machine.
#[track_caller]
pub fn wait_growing(timeout: Duration, what: &str, enough: u64, mut count: impl FnMut() -> u64) {
    let mut most = None;
    while most < Some(enough) {
        let seen = wait_for(timeout, what, || match count() {
            seen if most < Some(seen) => Ok(seen),
            seen => Err(format!("{seen} of {enough}")),
        });
        most = Some(seen);
    }
}

/// Asks `attempt` until it gives a value; panics with `what` and the last reason when `timeout` has passed.
#[track_caller]
pub fn wait_for<T>(timeout: Duration, what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    match try_wait_for(timeout, attempt) {
        Ok(value) => value,
        Err(reason) if reason.is_empty() => panic!("not within {timeout:?}: {what}"),
        Err(reason) => panic!("not within {timeout:?}: {what}: {reason}"),
    }
}

/// Asks `attempt` until it gives a value; the last reason when `timeout` has passed. It asks at least once, and
/// once more after the deadline, so that a slow machine does not turn into a failure.
pub fn try_wait_for<T>(
    timeout: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + timeout;
    let mut pause = POLL_FIRST;
    loop {
        let late = Instant::now() >= deadline;
        match attempt() {
            Err(reason) if late => return Err(reason),
            Err(_) => thread::sleep(pause),
            Ok(value) => return Ok(value),
        }
        pause = (pause * 2).min(POLL_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_given() {
        let mut asked = 0;
        let value = wait_for(Duration::from_secs(60), "three", || {
            asked += 1;
            if asked == 3 {
                Ok(asked)
            } else {
                Err("too early".to_owned())
            }
        });
        assert_eq!(value, 3);
    }

    #[test]
    fn what_grows_has_all_the_time_it_takes() {
        let mut count = 0;
        wait_growing(Duration::ZERO, "a hundred", 100, || {
            count += 30;
            count
        });
        assert_eq!(count, 120);
    }

    #[test]
    #[should_panic(expected = "not within 1ms: a hundred: 3 of 100")]
    fn what_grows_no_more_is_not_waited_for() {
        let mut count = 0;
        wait_growing(Duration::from_millis(1), "a hundred", 100, || {
            count = 3.min(count + 1);
            count
        });
    }

    #[test]
    fn a_deadline_gives_the_last_reason_after_at_least_one_question() {
        let mut asked = 0;
        let result: Result<(), _> = try_wait_for(Duration::ZERO, || {
            asked += 1;
            Err(format!("asked {asked}"))
        });
        assert_eq!(result, Err("asked 1".to_owned()));
    }

    #[test]
    #[should_panic(expected = "not within 1ms: pigs fly: still walking")]
    fn the_panic_says_what_and_why() {
        wait_for(Duration::from_millis(1), "pigs fly", || {
            Err::<(), _>("still walking".to_owned())
        });
    }
}
