//! One path, read without pause while versions change: always one whole version, never none.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use syncd_tests::wait_until;
use syncd_tests::workload::vim_save;

use crate::common::{LONG, Mirror, scaled};

/// Reads one path again and again; the first reading that is no whole version ends it.
pub(crate) struct Reader {
    stop: Arc<AtomicBool>,
    readings: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), String>>,
}

impl Reader {
    pub(crate) fn on(
        path: PathBuf,
        judge: impl Fn(&Path) -> Result<(), String> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let readings = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (stop, readings) = (stop.clone(), readings.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    judge(&path)?;
                    readings.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        Self {
            stop,
            readings,
            thread,
        }
    }

    /// Waits for one more reading, so that each version had a chance to be seen.
    #[track_caller]
    pub(crate) fn wait_reading(&self) {
        let before = self.readings.load(Ordering::Relaxed);
        wait_until(LONG, "one more reading", || {
            self.readings.load(Ordering::Relaxed) > before || self.thread.is_finished()
        });
    }

    #[track_caller]
    pub(crate) fn expect_whole(self) {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.join().expect("the reader");
        let count = self.readings.load(Ordering::Relaxed);
        if let Err(reason) = result {
            panic!("after {count} good readings: {reason}");
        }
        assert!(count > 0, "nothing was read");
    }
}

/// A version: `size` bytes that are all the same, with the mode that belongs to that byte.
fn write_version(path: &Path, byte: u8, size: usize) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let beside = path.with_file_name("beside");
    fs::write(&beside, vec![byte; size])?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode_of(byte)))?;
    fs::rename(beside, path)
}

fn mode_of(byte: u8) -> u32 {
    if byte.is_multiple_of(2) { 0o640 } else { 0o604 }
}

/// The content is one byte `size` times, and where `modes` are part of the version, the mode is that byte's.
pub(crate) fn judge(path: &Path, size: usize, modes: bool) -> Result<(), String> {
    let mut file = fs::File::open(path).map_err(|error| format!("not there: {error}"))?;
    let stat = file.metadata().map_err(|error| error.to_string())?;
    let mut content = Vec::with_capacity(size);
    io::Read::read_to_end(&mut file, &mut content).map_err(|error| error.to_string())?;
    if content.len() != size {
        return Err(format!("{} bytes, not {size}", content.len()));
    }
    let first = content[0];
    if let Some(at) = content.iter().position(|byte| *byte != first) {
        return Err(format!("version {first} up to {at}, then {}", content[at]));
    }
    let mode = stat.mode() & 0o7777;
    if modes && mode != mode_of(first) {
        return Err(format!("version {first} with mode {mode:o}"));
    }
    Ok(())
}

#[track_caller]
fn versions_of(size: usize, count: usize) {
    let mirror = Mirror::start();
    let path = mirror.src("file");
    write_version(&path, 0, size).expect("write");
    mirror.settle();
    let reader = Reader::on(mirror.dst("file"), move |path| judge(path, size, true));
    for number in 1..=count {
        let byte = u8::try_from(number % 251).expect("a byte");
        write_version(&path, byte, size).expect("write");
        if number % 3 == 0 {
            mirror.settle();
        }
        reader.wait_reading();
    }
    mirror.settle();
    reader.expect_whole();
}

#[test]
fn a_large_file_is_never_mixed() {
    versions_of(256 << 10, scaled(30, 1000));
}

#[test]
fn a_file_sent_as_a_delta_is_never_mixed() {
    versions_of(3 << 20, scaled(8, 200));
}

#[test]
fn a_small_file_is_never_missing_or_empty() {
    versions_of(100, scaled(60, 5000));
}

/// Overwriting in place is not atomic at the source; a version that never existed for long must not stay, and what
/// is seen is never missing or cut short.
#[test]
fn a_file_that_editors_save_is_never_missing() {
    let mirror = Mirror::start();
    let path = mirror.src("page.html");
    let size = 20_000;
    fs::write(&path, vec![b'0'; size]).expect("write");
    mirror.settle();
    let reader = Reader::on(mirror.dst("page.html"), move |path| {
        judge(path, size, false)
    });
    for number in 0..scaled(20, 500) {
        let byte = b'a' + u8::try_from(number % 26).expect("a letter");
        vim_save(&path, &vec![byte; size]).expect("save");
        mirror.settle();
        reader.wait_reading();
    }
    reader.expect_whole();
}

/// `current -> releases/N`: the way web roots are switched. The link is never gone, and never leads to nothing.
#[test]
fn a_release_is_switched_and_old_ones_removed() {
    let mirror = Mirror::start();
    let release = |number: usize| {
        let dir = mirror.src(format!("releases/{number}"));
        fs::create_dir_all(&dir).expect("mkdir");
        for name in ["index.html", "app.js", "style.css"] {
            fs::write(dir.join(name), format!("{number}")).expect("write");
        }
        // Deployed first and switched when it is in place, as one does.
        mirror.settle();
        let beside = mirror.src("current.new");
        std::os::unix::fs::symlink(format!("releases/{number}"), &beside).expect("symlink");
        fs::rename(beside, mirror.src("current")).expect("switch");
    };
    release(0);
    mirror.settle();
    let reader = Reader::on(mirror.dst("current"), |path| {
        for name in ["index.html", "app.js", "style.css"] {
            fs::read(path.join(name)).map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(())
    });
    for number in 1..=scaled(15, 300) {
        release(number);
        mirror.settle();
        reader.wait_reading();
        // Two back, so that a reader that has just followed the link is not left behind.
        if number > 1 {
            fs::remove_dir_all(mirror.src(format!("releases/{}", number - 2))).expect("remove");
        }
    }
    mirror.settle();
    reader.expect_whole();
}

/// A symlink that becomes a file and back, over and over.
#[test]
fn a_path_that_changes_its_type_is_never_missing() {
    let mirror = Mirror::start();
    let path = mirror.src("thing");
    fs::write(&path, "file").expect("write");
    mirror.settle();
    let reader = Reader::on(mirror.dst("thing"), |path| {
        let stat = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
        let good = stat.file_type().is_symlink() || stat.len() == 4;
        if good {
            Ok(())
        } else {
            Err(format!("{} bytes", stat.len()))
        }
    });
    for number in 0..scaled(20, 500) {
        let beside = mirror.src("beside");
        if number % 2 == 0 {
            std::os::unix::fs::symlink("elsewhere", &beside).expect("symlink");
        } else {
            fs::write(&beside, "file").expect("write");
        }
        fs::rename(&beside, &path).expect("rename");
        mirror.settle();
        reader.wait_reading();
    }
    reader.expect_whole();
}
