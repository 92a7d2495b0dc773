//! How far a test has turned the clocks of this process. Release builds have no such clocks: in them
//! every amount is the constant 0.
//!
//! A test of the running hive starts it with `RBEE_HIVE_TEST_CLOCK=FILE` and writes two numbers of
//! milliseconds into the file: what to add to the wall clock, and what to add to the monotonic one. A unit
//! test turns the wall clock of its own thread with [`turn_wall`].

/// The milliseconds to add to each clock.
#[derive(Clone, Copy, Default)]
pub(super) struct Turned {
    pub(super) wall_ms: i64,
    pub(super) monotonic_ms: u64,
}

#[cfg(not(debug_assertions))]
pub(super) const fn now() -> Turned {
    Turned { wall_ms: 0, monotonic_ms: 0 }
}

#[cfg(debug_assertions)]
#[expect(clippy::disallowed_methods, reason = "a test names the file, and the clock stands below `files`")]
pub(super) fn now() -> Turned {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("RBEE_HIVE_TEST_CLOCK").map(PathBuf::from));

    #[cfg(test)]
    if WALL_MS.get() != 0 {
        return Turned { wall_ms: WALL_MS.get(), monotonic_ms: 0 };
    }
    let turned = FILE.as_ref().and_then(|file| read(&std::fs::read_to_string(file).ok()?));
    turned.unwrap_or_default()
}

#[cfg(debug_assertions)]
fn read(text: &str) -> Option<Turned> {
    let (wall, monotonic) = text.trim().split_once(' ')?;
    Some(Turned { wall_ms: wall.parse().ok()?, monotonic_ms: monotonic.parse().ok()? })
}

#[cfg(test)]
thread_local! {
    static WALL_MS: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

/// Turns the wall clock of this thread: it is now `ms` ahead of the machine's, or behind it.
#[cfg(test)]
pub(crate) fn turn_wall(ms: i64) {
    WALL_MS.set(ms);
}

#[cfg(test)]
mod tests {
    use super::super::{Instant, monotonic, turn_wall};
    use super::read;

    #[test]
    fn a_test_turns_the_wall_clock_of_its_own_thread() {
        const DAY_MS: i64 = 24 * 3600 * 1000;
        let (before, steady) = (Instant::now(), monotonic());
        turn_wall(-DAY_MS);
        assert!(Instant::now() < before && monotonic() >= steady);
        std::thread::scope(|scope| {
            let other = scope.spawn(Instant::now);
            assert!(other.join().unwrap() >= before);
        });
        turn_wall(DAY_MS);
        assert!(Instant::now().since_ms(before) >= DAY_MS.unsigned_abs());
        turn_wall(0);
    }

    #[test]
    fn a_file_that_is_half_written_turns_nothing() {
        assert!(read("").is_none() && read("-5").is_none() && read("x 1").is_none());
        let turned = read("-5 7\n").unwrap();
        assert_eq!((turned.wall_ms, turned.monotonic_ms), (-5, 7));
    }
}
