//! What notify tells, as [`RawEvent`]s.

use std::path::Path;

use notify::Event;
use notify::EventKind;
use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RemoveKind, RenameMode};
use syncd_proto::path::{Name, WirePath};

use super::super::{RawEvent, Touch};
use super::{Departed, State};

/// Most names that are kept as those of directories that departed; beyond, no rename is taken as one.
const STALE_MAX: usize = 256;

/// Most events held back behind half a rename.
const HELD_MAX: usize = 256;

impl State {
    pub(super) fn translate(&mut self, event: &Event) {
        if event.flag() == Some(Flag::Rescan) {
            return self.overflow();
        }
        let Some(path) = event.paths.first() else {
            return;
        };
        if let Ok(name) = path.strip_prefix(self.barrier.path()) {
            return self.barrier_arrived(event, name);
        }
        let Ok(at) = path.strip_prefix(&self.place) else {
            return;
        };
        let Some(path) = WirePath::from_relative(at) else {
            return self.unnamed(at, event.kind);
        };
        match event.kind {
            EventKind::Create(_) if path.is_root() => {}
            EventKind::Create(kind) => {
                self.touched(path, Touch::Created, kind == CreateKind::Folder);
            }
            EventKind::Remove(kind) => self.removed(path, kind, event.info()),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.touched(path, Touch::Written, false);
            }
            EventKind::Modify(ModifyKind::Data(_)) => self.touched(path, Touch::Modified, false),
            EventKind::Modify(ModifyKind::Metadata(_)) => {
                let dir = self.watched.contains_key(&path);
                self.touched(path, Touch::Attrib, dir);
            }
            EventKind::Modify(ModifyKind::Name(mode)) => {
                self.renamed(path, mode, event.tracker());
            }
            _ => {}
        }
    }

    /// notify drops all of its watches then; should the root come back, they are set anew.
    fn root_gone(&mut self) {
        self.overflowed = true;
        self.tell(RawEvent::RootGone);
    }

    /// An event about an entry that no path can name.
    fn unnamed(&mut self, at: &Path, kind: EventKind) {
        let name = matches!(kind, EventKind::Modify(ModifyKind::Name(_)));
        if (name || kind.is_create() || kind.is_remove())
            && let Some(dir) = at.parent().and_then(WirePath::from_relative)
        {
            self.tell(RawEvent::Unnamed { dir });
        }
    }

    fn barrier_arrived(&mut self, event: &Event, name: &Path) {
        if event.kind.is_create() {
            let name = Name::new(name.as_os_str().as_encoded_bytes());
            let number = name.and_then(|name| self.barrier.arrived(name.as_bytes()));
            if let Some(number) = number {
                self.tell(RawEvent::Barrier(number));
            }
        }
    }

    fn removed(&mut self, path: WirePath, kind: RemoveKind, info: Option<&str>) {
        if path.is_root() {
            self.root_gone();
        } else if info == Some("unmount") || kind == RemoveKind::Other {
            self.lose_below(&path);
            self.departs(&path);
            self.tell(RawEvent::DirGone { path });
        } else {
            self.touched(path, Touch::Removed, kind == RemoveKind::Folder);
        }
    }

    fn renamed(&mut self, path: WirePath, mode: RenameMode, tracker: Option<usize>) {
        match (mode, tracker) {
            (RenameMode::From, _) if path.is_root() => self.root_gone(),
            (RenameMode::From, Some(tracker)) => {
                self.left();
                self.departed = Some(Departed {
                    tracker,
                    dir: self.watched.contains_key(&path),
                    from: path,
                });
            }
            // A directory tells that it moved itself. Its parent has told it properly, if it is watched.
            (RenameMode::From, None) => self.departs(&path),
            // Another directory took the root's name; that the root is gone was told.
            (RenameMode::To, _) if path.is_root() => {}
            (RenameMode::To, Some(tracker)) => self.arrived(path, tracker),
            // Both halves again, in one.
            _ => {}
        }
    }

    fn arrived(&mut self, path: WirePath, tracker: usize) {
        let dir = is_dir(&self.place, &path);
        let Some(gone) = self.departed.take_if(|gone| gone.tracker == tracker) else {
            return self.touched(path, Touch::MovedIn, dir.unwrap_or(true));
        };
        let dir = dir.unwrap_or(gone.dir);
        self.release_held();
        if self.is_stale(&gone.from) || self.is_stale(&path) {
            self.touched(path, Touch::MovedIn, dir);
            self.touched(gone.from, Touch::MovedOut, dir);
            return;
        }
        let from = gone.from.clone();
        self.tell(RawEvent::Renamed {
            from: gone.from,
            to: path.clone(),
            dir,
        });
        if dir {
            self.lose_below(&from);
            self.departs(&from);
            // What stood there before.
            self.departs(&path);
        }
    }

    pub(super) fn overflow(&mut self) {
        self.left();
        self.overflowed = true;
        self.tell(RawEvent::Overflow);
        if let Err(error) = self.barrier.touch_again() {
            let text = format!("a barrier is lost: {error}");
            self.tell(RawEvent::Failed { text });
        }
    }

    /// A departed entry has left what is watched.
    pub(super) fn left(&mut self) {
        if let Some(gone) = self.departed.take() {
            let held = std::mem::take(&mut self.held);
            self.touched(gone.from, Touch::MovedOut, gone.dir);
            for event in held {
                self.tell(event);
            }
        }
    }

    fn release_held(&mut self) {
        for event in self.held.drain(..) {
            self.sink.event(event);
        }
    }

    fn touched(&mut self, path: WirePath, touch: Touch, dir: bool) {
        let left = dir && matches!(touch, Touch::Removed | Touch::MovedOut);
        let came = dir && touch == Touch::MovedIn;
        self.tell(RawEvent::Touched {
            path: path.clone(),
            touch,
            dir,
        });
        if left {
            self.lose_below(&path);
        }
        if left || came {
            self.departs(&path);
        }
    }

    /// notify drops what it has of this name and of all below, perhaps of directories that have these
    /// names only now, and has told things below it that happened elsewhere.
    fn departs(&mut self, path: &WirePath) {
        if self.stale.len() < STALE_MAX && !self.is_stale(path) {
            self.stale.push(path.clone());
        } else if self.stale.len() >= STALE_MAX {
            self.stale.clear();
            self.stale.push(WirePath::root());
        }
        self.tell(RawEvent::Unheard);
    }

    /// Whether a directory at or above `path` departed since the last refresh.
    fn is_stale(&self, path: &WirePath) -> bool {
        self.stale.iter().any(|gone| path.starts_with(gone))
    }

    pub(super) fn tell(&mut self, event: RawEvent) {
        if self.departed.is_some() {
            self.held.push(event);
            if self.held.len() >= HELD_MAX {
                self.left();
            }
        } else {
            self.sink.event(event);
        }
    }
}

/// Whether a directory is at `path` now; `None` if nothing can be seen there.
fn is_dir(place: &Path, path: &WirePath) -> Option<bool> {
    let meta = std::fs::symlink_metadata(place.join(path.to_path_buf()));
    meta.ok().map(|meta| meta.is_dir())
}
