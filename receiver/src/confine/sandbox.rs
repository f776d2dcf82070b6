//! Landlock: whatever goes wrong later, the kernel opens nothing of this process outside of its module and its
//! trash.
//!
//! As much as the kernel knows of it is applied; what could not be is a note for the log. It is a second
//! fence: names are resolved beneath the module without it too.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::fs::{Mode, OFlags};

/// Confines the calling thread, and those it starts, to what is below these directories. A note if the
/// kernel could not do all of it.
///
/// # Errors
/// It could be applied, and was not.
pub(super) fn restrict(dirs: &[BorrowedFd<'_>]) -> Result<Option<String>, String> {
    let status = apply(dirs).map_err(|error| format!("landlock: {error}"))?;
    match status {
        RulesetStatus::FullyEnforced => Ok(None),
        RulesetStatus::PartiallyEnforced => Ok(Some(
            "landlock of this kernel covers only a part".to_owned(),
        )),
        RulesetStatus::NotEnforced => Ok(Some(
            "this kernel has no landlock; going on without".to_owned(),
        )),
    }
}

/// Whether the root directory can be listed: confined to a module below it, it cannot.
pub(super) fn can_list_root() -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty()).is_ok()
}

fn apply(dirs: &[BorrowedFd<'_>]) -> Result<RulesetStatus, RulesetError> {
    let all = AccessFs::from_all(KNOWN);
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?
        .add_rules(
            dirs.iter()
                .map(|dir| Ok::<_, RulesetError>(PathBeneath::new(dir, all))),
        )?
        .restrict_self()?;
    Ok(restricted.ruleset)
}

/// The newest rights asked for (Linux 6.2: truncation); older kernels give what they have. Before Linux
/// 5.19 a restricted process could not move anything out of the staging area, hence the requirement
/// above: there nothing is restricted.
const KNOWN: ABI = ABI::V3;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;
    use crate::fs::root::HANDLE;

    #[test]
    fn nothing_outside_is_opened_and_everything_inside_is() {
        let module = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        fs::create_dir(module.path().join("d")).unwrap();
        let root = rustix::fs::open(module.path(), HANDLE, Mode::empty()).unwrap();
        let at = |name| module.path().join(name);
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                if restrict(&[root.as_fd()]).unwrap().is_some() {
                    let required = std::env::var("SYNCD_TESTS_REQUIRE");
                    assert!(required.is_err(), "landlock is not enforced");
                    eprintln!("skipped: landlock is not enforced here");
                    return;
                }
                assert!(fs::read(outside.path().join("secret")).is_err());
                assert!(fs::write(outside.path().join("new"), "x").is_err());
                assert!(!can_list_root());
                fs::write(at("f"), "content").unwrap();
                fs::rename(at("f"), at("d/f")).unwrap();
                assert_eq!(fs::read(at("d/f")).unwrap(), b"content");
                fs::remove_file(at("d/f")).unwrap();
            });
            confined.join().unwrap();
        });
        assert!(fs::read(outside.path().join("secret")).is_ok());
    }
}
