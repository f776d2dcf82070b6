//! What is told of events that are made by hand, and what is left of the notes.

use std::sync::mpsc;

use notify::EventKind;
use notify::event::{ModifyKind, RemoveKind, RenameMode};

use super::super::Touch;
use super::*;

/// A watcher, and what it tells.
fn start(root: &Path) -> (NotifyWatcher, mpsc::Receiver<RawEvent>) {
    let (sender, events) = mpsc::sync_channel(1 << 17);
    let sink = move |event| drop(sender.send(event));
    let watcher = NotifyWatcher::start(root, Box::new(sink)).unwrap();
    (watcher, events)
}

#[test]
fn a_barrier_directory_that_was_cleaned_away_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut watcher, events) = start(dir.path());
    let private = watcher.shared.state().barrier.path().to_owned();
    assert!(!private.starts_with(dir.path()));
    std::fs::remove_dir_all(private).unwrap();
    let number = watcher.barrier().unwrap();
    let told = events.recv_timeout(std::time::Duration::from_secs(60));
    assert_eq!(told.unwrap(), RawEvent::Barrier(number));
}

/// A watcher of these directories, and what it is told by hand: nothing happens to them.
fn told(dirs: &[&str], events: &[Event]) -> Vec<RawEvent> {
    let dir = tempfile::tempdir().unwrap();
    for name in dirs {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let (watcher, heard) = start(dir.path());
    let mut state = watcher.shared.state();
    for event in events {
        let mut event = event.clone();
        event.paths = vec![state.place.join(&event.paths[0])];
        state.translate(&event);
    }
    drop(state);
    heard.try_iter().collect()
}

fn event(kind: EventKind, at: &str) -> Event {
    Event::new(kind).add_path(at.into())
}

fn half(mode: RenameMode, at: &str, cookie: usize) -> Event {
    event(EventKind::Modify(ModifyKind::Name(mode)), at).set_tracker(cookie)
}

fn path(text: &str) -> WirePath {
    WirePath::from_relative(text.as_ref()).unwrap()
}

fn touched(at: &str, touch: Touch, dir: bool) -> RawEvent {
    let path = path(at);
    RawEvent::Touched { path, touch, dir }
}

fn renamed(from: &str, to: &str) -> RawEvent {
    RawEvent::Renamed {
        from: path(from),
        to: path(to),
        dir: true,
    }
}

#[test]
fn a_directory_that_departs_is_told_and_leaves_the_others_in_doubt() {
    let removed = [event(EventKind::Remove(RemoveKind::Folder), "d")];
    let gone = touched("d", Touch::Removed, true);
    assert_eq!(told(&[], &removed), [gone, RawEvent::Unheard]);
    let moved = [half(RenameMode::From, "a", 1), half(RenameMode::To, "b", 1)];
    let all = [renamed("a", "b"), RawEvent::Unheard, RawEvent::Unheard];
    assert_eq!(told(&["b"], &moved), all);
    let itself = EventKind::Modify(ModifyKind::Name(RenameMode::From));
    assert_eq!(told(&[], &[event(itself, "a")]), [RawEvent::Unheard]);
    let came = [half(RenameMode::To, "b", 1)];
    let all = [touched("b", Touch::MovedIn, true), RawEvent::Unheard];
    assert_eq!(told(&["b"], &came), all);
    let file = [event(EventKind::Remove(RemoveKind::File), "f")];
    assert_eq!(told(&[], &file), [touched("f", Touch::Removed, false)]);
}

#[test]
fn a_rename_below_a_name_of_the_past_is_two_paths_to_look_at() {
    let events = [
        half(RenameMode::From, "a", 1),
        half(RenameMode::To, "b", 1),
        half(RenameMode::From, "a/g", 2),
        half(RenameMode::To, "g", 2),
        half(RenameMode::From, "other", 3),
        half(RenameMode::To, "else", 3),
    ];
    let told = told(&["b"], &events);
    let told: Vec<_> = told
        .into_iter()
        .filter(|it| *it != RawEvent::Unheard)
        .collect();
    let last = RawEvent::Renamed {
        from: path("other"),
        to: path("else"),
        dir: false,
    };
    let all = [
        renamed("a", "b"),
        touched("g", Touch::MovedIn, false),
        touched("a/g", Touch::MovedOut, false),
        last,
    ];
    assert_eq!(told, all);
}

#[test]
fn a_refresh_forgets_what_is_not_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["stays", "moves/in", "goes"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let mut watcher = NotifyWatcher::start(dir.path(), Box::new(|_| {})).unwrap();
    for name in ["stays", "moves", "moves/in", "goes"] {
        assert_eq!(watcher.watch(&path(name)).unwrap(), Watched::New);
    }
    // As if notify had not heard of it: the notes are what is wrong.
    let other = watcher.shared.state().watched[&WirePath::root()];
    watcher
        .shared
        .state()
        .watched
        .insert(path("moves/in"), other);
    std::fs::remove_dir(dir.path().join("goes")).unwrap();
    watcher.barrier().unwrap();
    watcher.refresh().unwrap();
    let left: Vec<_> = watcher.shared.state().watched.keys().cloned().collect();
    assert_eq!(left, [WirePath::root(), path("moves"), path("stays")]);
    assert_eq!(watcher.watch(&path("moves/in")).unwrap(), Watched::Other);
    assert_eq!(watcher.watch(&path("stays")).unwrap(), Watched::Already);
}

/// What notify holds below the root.
fn held(watcher: &NotifyWatcher) -> Vec<WirePath> {
    let held = watcher.inner.watched_paths().unwrap().into_iter();
    let below =
        held.filter_map(|(at, _)| WirePath::from_relative(at.strip_prefix(&watcher.place).ok()?));
    let mut below: Vec<_> = below.filter(|path| !path.is_root()).collect();
    below.sort();
    below
}

#[test]
fn what_is_below_a_directory_that_was_replaced_is_not_taken_for_watched() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("d/in/deep")).unwrap();
    let mut watcher = NotifyWatcher::start(dir.path(), Box::new(|_| {})).unwrap();
    for name in ["d", "d/in", "d/in/deep"] {
        watcher.watch(&path(name)).unwrap();
    }
    // Another directory was at `d` when it was watched, and nothing has told of that yet.
    let other = watcher.shared.state().watched[&WirePath::root()];
    watcher.shared.state().watched.insert(path("d"), other);
    assert_eq!(watcher.watch(&path("d")).unwrap(), Watched::Other);
    assert_eq!(held(&watcher), [path("d")]);
    assert_eq!(watcher.watch(&path("d/in")).unwrap(), Watched::New);
}

/// notify goes on to hold what is below a name that it does not hold.
#[test]
fn what_an_event_took_the_note_of_is_not_taken_for_watched() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("d/in")).unwrap();
    let (mut watcher, events) = start(dir.path());
    watcher.watch(&path("d/in")).unwrap();
    let lose = |watcher: &NotifyWatcher| watcher.shared.state().lose_below(&path("d"));
    lose(&watcher);
    watcher.refresh().unwrap();
    assert_eq!(held(&watcher), []);
    watcher.watch(&path("d/in")).unwrap();
    lose(&watcher);
    assert_eq!(held(&watcher), [path("d/in")]);
    // Nothing is held of `d`, so that what this tells of it drops nothing.
    std::fs::rename(dir.path().join("d"), dir.path().join("old")).unwrap();
    std::fs::create_dir_all(dir.path().join("d/in")).unwrap();
    watcher.watch(&path("d/in")).unwrap();
    let barrier = RawEvent::Barrier(watcher.barrier().unwrap());
    let patience = Duration::from_secs(60);
    while events.recv_timeout(patience).unwrap() != barrier {}
    std::fs::create_dir(dir.path().join("d/in/new")).unwrap();
    let event = events.recv_timeout(patience).unwrap();
    assert_eq!(event, touched("d/in/new", Touch::Created, true));
}

#[test]
fn after_an_overflow_nothing_is_taken_for_watched() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    let (mut watcher, events) = start(dir.path());
    watcher.watch(&path("d")).unwrap();
    watcher.shared.state().overflow();
    assert_eq!(events.recv().unwrap(), RawEvent::Overflow);
    watcher.refresh().unwrap();
    assert_eq!(watcher.watched(), 1);
    assert_eq!(watcher.watch(&path("d")).unwrap(), Watched::New);
    std::fs::create_dir(dir.path().join("d/new")).unwrap();
    let event = events.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(event, touched("d/new", Touch::Created, true));
}
