//! [`map`]: the same work on many things, by a few threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Most threads for one list.
const THREADS_MAX: usize = 4;

/// Does `work` with each of `items` and gives the results in their order. `alone` keeps it on this thread.
pub fn map<T: Sync, R: Send>(items: &[T], alone: bool, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(THREADS_MAX).min(items.len());
    if alone || threads < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else {
                return done;
            };
            done.push((at, work(item)));
        }
    };
    let mut done = thread::scope(|scope| {
        // One that cannot be started is done without.
        let started: Vec<_> = (1..threads)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, some).ok())
            .collect();
        let mut done = some();
        for thread in started {
            match thread.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..1_000).collect();
        let squares: Vec<u64> = items.iter().map(|item| item * item).collect();
        for alone in [true, false] {
            assert_eq!(map(&items, alone, |item| item * item), squares);
            assert!(map(&[], alone, |item: &u64| *item).is_empty());
        }
    }
}
