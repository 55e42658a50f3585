//! Retries with errors from a script and without pauses, and a stop in the middle of a long one.

use super::*;
use crate::base::stop;
use std::cell::{Cell, RefCell};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Passing(String),
    Lasting,
    Stopped,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Retryable for Fault {
    fn is_transient(&self) -> bool {
        matches!(self, Fault::Passing(_))
    }

    fn stopped() -> Self {
        Fault::Stopped
    }

    fn after(self, effort: &str) -> Self {
        match self {
            Fault::Passing(why) => Fault::Passing(format!("{why} (after {effort})")),
            other => other,
        }
    }
}

fn passing<T>() -> Result<T, Fault> {
    Err(Fault::Passing("down".to_owned()))
}

/// Retries without pauses; the source keeps them from being stopped.
fn quick(tries: u32) -> (stop::StopSource, Retry) {
    let (source, token) = stop::pair();
    (source, Retry::with_pauses(tries, Duration::ZERO, Duration::ZERO, token))
}

#[test]
fn pauses_grow_and_stay_below_the_limit() {
    let mut backoff = Backoff::up_to(Duration::from_secs(1));
    let pauses: Vec<_> = (0..10).map(|_| backoff.pause()).collect();
    assert!(pauses[0] <= limits::RETRY_FIRST && pauses[0] >= limits::RETRY_FIRST / 2);
    assert!(pauses.iter().all(|p| *p <= Duration::from_secs(1)));
    assert!(pauses[9] >= Duration::from_millis(500));
    backoff.reset();
    assert!(backoff.pause() <= limits::RETRY_FIRST);
}

#[test]
fn the_first_pause_is_never_longer_than_the_longest() {
    let mut backoff = Backoff::up_to(Duration::from_millis(1));
    assert!(backoff.pause() <= Duration::from_millis(1));
}

#[test]
fn a_failure_for_ever_is_tried_a_set_number_of_times_and_says_so() {
    let (_source, retry) = quick(5);
    let count = Cell::new(0);
    let result: Result<(), _> = retry.run("put", |_| {
        count.set(count.get() + 1);
        passing()
    });
    assert_eq!((count.get(), result), (5, Err(Fault::Passing("down (after 5 tries, 0.0 s)".to_owned()))));
}

#[test]
fn a_failure_for_good_is_not_tried_again() {
    let (_source, retry) = quick(5);
    let count = Cell::new(0);
    let result: Result<(), _> = retry.run("put", |_| {
        count.set(count.get() + 1);
        Err(Fault::Lasting)
    });
    assert_eq!((count.get(), result), (1, Err(Fault::Lasting)));
}

#[test]
fn one_try_alone_says_nothing_of_tries() {
    let (_source, retry) = quick(1);
    assert_eq!(retry.run("put", |_| passing::<()>()), passing());
}

#[test]
fn retries_inside_retries_share_one_budget() {
    let (_source, retry) = quick(5);
    for depth in 0..4 {
        let count = Cell::new(0);
        let request = || {
            count.set(count.get() + 1);
            passing::<()>()
        };
        let result = retry.run("put", |tries| match depth {
            0 => request(),
            1 => tries.step("a", |_| request()),
            2 => tries.step("a", |tries| tries.step("b", |_| request())),
            _ => tries.step("a", |tries| tries.step("b", |tries| tries.step("c", |_| request()))),
        });
        assert_eq!(count.get(), 5, "depth {depth}");
        assert_eq!(result, Err(Fault::Passing("down (after 5 tries, 0.0 s)".to_owned())), "depth {depth}");
    }
}

#[test]
fn a_step_that_recovers_gives_back_what_it_took() {
    let (_source, retry) = quick(3);
    let steps = RefCell::new(vec![]);
    // Ten steps of which each fails twice: more failures than tries, and none of them too many.
    let result = retry.run("put", |tries| {
        for number in 0..10 {
            let failures = Cell::new(0);
            tries.step("part", |_| {
                failures.set(failures.get() + 1);
                if failures.get() < 3 { passing() } else { Ok(()) }
            })?;
            steps.borrow_mut().push(number);
        }
        Ok::<_, Fault>(())
    });
    assert_eq!((result, steps.into_inner()), (Ok(()), (0..10).collect::<Vec<_>>()));
}

#[test]
fn what_the_whole_has_used_up_a_step_cannot_use_again() {
    let (_source, retry) = quick(5);
    let (steps, wholes) = (Cell::new(0), Cell::new(0));
    // The step recovers, what comes after it fails for ever.
    let result: Result<(), _> = retry.run("put", |tries| {
        let tried = Cell::new(0);
        tries.step("write", |_| {
            steps.set(steps.get() + 1);
            tried.set(tried.get() + 1);
            if tried.get() == 1 && wholes.get() < 4 { passing() } else { Ok(()) }
        })?;
        wholes.set(wholes.get() + 1);
        passing()
    });
    assert!(result.is_err());
    assert_eq!((wholes.get(), steps.get()), (5, 9));
}

#[test]
fn a_step_after_the_last_try_is_made_once() {
    let (_source, retry) = quick(2);
    let looks = Cell::new(0);
    let result: Result<(), _> = retry.run("put", |tries| {
        let put: Result<(), Fault> = tries.step("write", |_| passing());
        let _: Result<(), Fault> = tries.step("look", |_| {
            looks.set(looks.get() + 1);
            passing()
        });
        put
    });
    assert!(result.is_err());
    assert_eq!(looks.get(), 1);
}

#[test]
fn a_stop_ends_the_pause_at_once() {
    let (source, token) = stop::pair();
    let retry = Retry::with_pauses(5, Duration::from_secs(60), Duration::from_secs(60), token);
    let begun = Instant::now();
    let mut source = Some(source);
    // The stop is requested while the operation runs, so the pause after it is the wait that must end.
    let result: Result<(), _> = retry.run("put", |tries| {
        drop(source.take());
        tries.step("write", |_| passing())
    });
    assert_eq!(result, Err(Fault::Stopped));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn nothing_is_tried_again_when_the_time_is_over() {
    let tries = |within: Duration| {
        let (_source, retry) = quick(5);
        let made = Cell::new(0);
        let result: Result<(), _> = retry.within(within).run("look", |_| {
            made.set(made.get() + 1);
            passing()
        });
        assert!(result.is_err());
        made.get()
    };
    assert_eq!((tries(Duration::ZERO), tries(Duration::from_secs(60))), (1, 5));
}

#[test]
fn effort_for_people() {
    assert_eq!(effort(1, Duration::from_millis(40)), "1 try, 0.0 s");
    assert_eq!(effort(3, Duration::from_millis(8_640)), "3 tries, 8.6 s");
    assert_eq!(effort(5, Duration::from_millis(75_900)), "5 tries, 75 s");
}
