//! Checks that nobody asked for: on a schedule, and when nothing changes any more. What differs although no event told
//! of it is found, shown and mended. And `bwlimit`.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use syncd_tests::programs::{AgentBuilder, Receiver};
use syncd_tests::require::Need;
use syncd_tests::workload::many_small;
use syncd_tests::{Sandbox, require, wait_until};

use crate::common::{LONG, Mirror, noise, target_of, wait_content};

/// Every second.
const OFTEN: &str = "* * * * * *";

fn with_source(keys: String) -> impl FnOnce(AgentBuilder) -> AgentBuilder {
    move |agent| {
        let keys = format!("max_delete = \"unlimited\"\n{keys}");
        // The same on the command line would be one thing too many.
        agent.in_file(&keys, "")
    }
}

fn mirror(sandbox: Sandbox, keys: String) -> Mirror {
    let receiver = sandbox.receiver().start();
    mirror_to(sandbox, receiver, keys)
}

fn mirror_to(sandbox: Sandbox, receiver: Receiver, keys: String) -> Mirror {
    let agent = with_source(keys)(sandbox.agent(&receiver)).start();
    let mirror = Mirror {
        agent,
        receiver,
        sandbox,
    };
    mirror.settle();
    mirror
}

/// Changes one byte and sets the time back: nothing but the content says so.
fn corrupt(path: &Path) {
    let meta = fs::metadata(path).expect("metadata");
    let modified = meta.modified().expect("time");
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 200).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 200).expect("write");
    file.set_modified(modified).expect("set the time");
}

/// Waits for a check that ended after this call and found so much at least.
#[track_caller]
fn wait_checked(mirror: &Mirror, found: u64) -> Value {
    let mut last = Value::Null;
    wait_until(LONG, "a full check", || {
        last = mirror.target()["full_check"].clone();
        last["done"] == true && last["found"].as_u64() >= Some(found)
    });
    last
}

#[test]
fn a_check_of_contents_finds_and_mends_what_nobody_told_of() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 3, 10, 500).expect("files");
    let large = noise(3 << 20, 1);
    fs::write(sandbox.src().join("large"), &large).expect("write");
    let mirror = mirror(
        sandbox,
        format!("full_check = {{ at = \"{OFTEN}\", content = true }}"),
    );
    let small = fs::read(mirror.src("d00001/f00003")).expect("read");
    for name in ["large", "d00001/f00003"] {
        corrupt(&mirror.dst(name));
    }
    fs::remove_dir_all(mirror.dst("d00002")).expect("remove");
    fs::write(mirror.dst("d00000/strange"), "strange").expect("write");
    wait_content(&mirror.dst("large"), &large);
    wait_content(&mirror.dst("d00001/f00003"), &small);
    wait_until(LONG, "all is mended", || {
        mirror.dst("d00002/f00009").exists() && !mirror.dst("d00000/strange").exists()
    });
    mirror.settle();
    let checked = wait_checked(&mirror, 0);
    assert_eq!(checked["content"], true, "{checked}");
    // And then there is nothing any more.
    wait_until(LONG, "a check without differences", || {
        let checked = &mirror.target()["full_check"];
        checked["done"] == true && checked["found"] == 0 && checked["entries"].as_u64() > Some(30)
    });
    assert!(mirror.target()["next_full_check"].is_string());
}

/// What a check of contents has read on both sides need not be sent to be known.
#[test]
fn what_a_check_found_the_same_stays_when_it_is_written_again() {
    let sandbox = Sandbox::new();
    let sizes = [1, 4_000, 64 << 10, 128 << 10];
    fs::create_dir(sandbox.src().join("d")).expect("mkdir");
    for size in sizes {
        let file = sandbox.src().join(format!("d/f{size}"));
        fs::write(&file, noise(size, 1)).expect("write");
        fs::hard_link(file, sandbox.src().join(format!("second{size}"))).expect("ln");
        fs::write(sandbox.src().join(format!("g{size}")), noise(size, 2)).expect("write");
    }
    let keys = format!("full_check = {{ at = \"{OFTEN}\", content = true }}");
    let Mirror {
        agent,
        receiver,
        sandbox,
    } = mirror(sandbox, keys.clone());
    agent.kill9();
    let mirror = mirror_to(sandbox, receiver, keys);
    let first = wait_checked(&mirror, 0);
    wait_until(LONG, "a check that began after that", || {
        let checked = &mirror.target()["full_check"];
        checked["done"] == true && checked["at"] != first["at"]
    });
    for size in sizes {
        for name in ["g", "second", "d/f"].map(|name| format!("{name}{size}")) {
            let (file, there) = (mirror.src(&name), mirror.dst(&name));
            let was = fs::metadata(&there).expect("there").ino();
            fs::write(&file, fs::read(&file).expect("read")).expect("write");
            mirror.settle();
            assert_eq!(fs::metadata(&there).expect("there").ino(), was, "{name}");
        }
    }
}

#[test]
fn what_a_mapping_writes_that_is_never_closed_is_found_by_contents() {
    if !require(&[Need::Tool("python3")]) {
        return;
    }
    let sandbox = Sandbox::new();
    let mut content = noise(200_000, 5);
    fs::write(sandbox.src().join("mapped"), &content).expect("write");
    let mirror = mirror(
        sandbox,
        format!("full_check = {{ at = \"{OFTEN}\", content = true }}"),
    );
    // Nobody is told of that, and on some file systems not even the time changes.
    let script = "import mmap, sys
with open('mapped', 'r+b') as file:
    mapped = mmap.mmap(file.fileno(), 0)
mapped[100:107] = b'written'
sys.stdin.read()";
    let mut writer = Command::new("python3")
        .args(["-c", script])
        .current_dir(mirror.sandbox.src())
        .stdin(Stdio::piped())
        .spawn()
        .expect("python");
    content[100..107].copy_from_slice(b"written");
    wait_content(&mirror.dst("mapped"), &content);
    drop(writer.stdin.take());
    assert!(writer.wait().expect("python").success());
}

#[test]
fn a_quick_check_finds_what_can_be_seen_and_shows_it() {
    let sandbox = Sandbox::new();
    many_small(&sandbox.src(), 2, 5, 500).expect("files");
    let mirror = mirror(
        sandbox,
        format!("full_check = \"{OFTEN}\"\nidle_check_s = 0"),
    );
    wait_until(LONG, "the roots are equal", || {
        mirror.target()["root_digest"].is_string()
    });
    let before = mirror.target();
    fs::remove_file(mirror.dst("d00001/f00003")).expect("remove");
    let file = File::open(mirror.dst("d00000/f00001")).expect("open");
    let early = UNIX_EPOCH + Duration::from_secs(1);
    file.set_modified(early).expect("set the time");
    wait_until(LONG, "it is mended", || {
        let missing = !mirror.dst("d00001/f00003").exists();
        let time = fs::metadata(mirror.dst("d00000/f00001")).expect("metadata");
        !missing && time.modified().expect("time") != early
    });
    mirror.settle();
    let root = before["root_digest"].as_str().expect("a root");
    wait_until(LONG, "the roots are equal again", || {
        let target = mirror.target();
        target["root_digest"] == root && target["identical_at"] != before["identical_at"]
    });
}

/// Changes go on while a slow check reads: it takes far longer than the test.
#[test]
fn a_slow_check_delays_nothing() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.src().join("large"), noise(8 << 20, 1)).expect("write");
    let keys = format!("full_check = {{ at = \"{OFTEN}\", content = true, read_limit = \"64K\" }}");
    let mirror = mirror(sandbox, keys);
    wait_until(LONG, "the check has begun", || {
        mirror.target()["full_check"].is_object()
    });
    for number in 0..20 {
        let content = format!("version {number}");
        let name = format!("f{}", number % 3);
        fs::write(mirror.src(&name), &content).expect("write");
        wait_content(&mirror.dst(&name), content.as_bytes());
    }
    let again = noise(8 << 20, 2);
    fs::write(mirror.src("large"), &again).expect("write");
    wait_content(&mirror.dst("large"), &again);
    let asked = mirror.agent.control().rescan(".");
    assert!(asked.is_ok(), "{asked:?}");
    mirror.settle();
    let checking = mirror.target()["full_check"].clone();
    assert_eq!(checking["done"], false);
    let known = |name: &str| checking[name].as_u64() > Some(0);
    for name in ["bytes", "took_ms", "entries_total"] {
        assert!(known(name), "{name}: {checking}");
    }
    assert!(mirror.target()["next_full_check"].is_string());
    let asked_to_end = Instant::now();
    mirror.agent.terminate(LONG);
    assert!(asked_to_end.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_roots_are_compared_when_nothing_changes_any_more() {
    let mirror = mirror(Sandbox::new(), "idle_check_s = 1".to_owned());
    let first = mirror.target();
    fs::write(mirror.src("f"), "content").expect("write");
    wait_content(&mirror.dst("f"), b"content");
    wait_until(LONG, "another root is identical", || {
        let target = mirror.target();
        target["root_digest"].is_string() && target["root_digest"] != first["root_digest"]
    });
    let text = syncd_tests::Binaries::locate();
    let mut command = std::process::Command::new(&text.agent);
    command
        .args(["status", "--control"])
        .arg(mirror.agent.control().path());
    let said = crate::common::run(&mirror.sandbox, &mut command);
    said.expect(crate::common::code::DONE, &["identical at 2", ", root "]);
}

#[test]
fn a_timetable_limits_what_is_sent_now() {
    let sandbox = Sandbox::new();
    let receiver = sandbox.receiver().start();
    let all_day = "bwlimit = [{ from = \"00:00\", to = \"24:00\", rate = \"256K\" }]";
    let agent = sandbox.agent(&receiver).in_file("", all_day).start();
    agent.wait_synced(LONG);
    assert_eq!(target_of(&agent)["bwlimit"], 256 << 10);
    let started = Instant::now();
    fs::write(sandbox.src().join("f"), noise(512 << 10, 1)).expect("write");
    agent.wait_synced(LONG);
    let took = started.elapsed();
    assert!(took > Duration::from_millis(1_500), "{took:?}");
    agent.terminate(LONG);
    // An hour that is far from now: no limit.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let hour = (now.as_secs() / 3_600 + 12) % 24;
    let slot =
        format!("bwlimit = [{{ from = \"{hour:02}:00\", to = \"{hour:02}:59\", rate = 1 }}]");
    let agent = sandbox.agent(&receiver).in_file("", &slot).env("TZ", "UTC");
    let agent = agent.start();
    agent.wait_synced(LONG);
    assert!(target_of(&agent)["bwlimit"].is_null());
}
