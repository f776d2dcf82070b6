//! Which sources a request is about, and which path of each: the one that it leads to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncd_proto::meta::Kind;
use syncd_proto::path::WirePath;

use crate::control::protocol::{Reply, path_text};
use crate::pipeline::source::Source;

/// Sources, and the path in each; the whole of it without one.
pub(super) type Wanted = Vec<(Arc<Source>, Option<WirePath>)>;

/// The sources that a path is in, all of them without a path; a relative one is in each.
pub(super) fn select(sources: &[Arc<Source>], path: Option<PathBuf>) -> Result<Wanted, Reply> {
    let Some(path) = path else {
        let all = sources.iter().map(|source| (source.clone(), None));
        return Ok(all.collect());
    };
    let found = sources.iter().filter_map(|source| {
        let below = below(source.root.path(), &path)?;
        Some((source.clone(), Some(WirePath::from_relative(&below)?)))
    });
    let found: Wanted = found.collect();
    if found.is_empty() {
        return Err(Reply::Error {
            text: format!("{} is not below a source of this agent", path_text(&path)),
            hint: Some("syncd-agent status lists them".to_owned()),
        });
    }
    Ok(found)
}

/// The same for who asks whether a path is mirrored: one that the rules leave out never is.
pub(super) fn mirrored(sources: &[Arc<Source>], path: Option<PathBuf>) -> Result<Wanted, Reply> {
    let mut wanted = select(sources, path.clone())?;
    let Some(asked) = path else {
        return Ok(wanted);
    };
    wanted.retain(|(source, path)| path.as_ref().is_none_or(|path| takes_part(source, path)));
    if wanted.is_empty() {
        return Err(Reply::Error {
            text: format!("{} is not mirrored: it is left out", path_text(&asked)),
            hint: Some("syncd-agent filter explain PATH names the rule".to_owned()),
        });
    }
    Ok(wanted)
}

fn takes_part(source: &Source, path: &WirePath) -> bool {
    let found = source.root.stat(path);
    let is_dir = matches!(found, Ok(Some(entry)) if entry.kind == Kind::Dir);
    source.includes(path, is_dir)
}

/// What a path is below a root. Links on the way to its last name are followed, as whoever wrote it means: no path of
/// the mirror has one on its way.
fn below(root: &Path, path: &Path) -> Option<PathBuf> {
    let real_root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let path = root.join(path);
    let path = match path.strip_prefix(root) {
        Ok(tail) => real_root.join(tail),
        Err(_) => path,
    };
    if let Ok(tail) = path.strip_prefix(&real_root)
        && tail.as_os_str().is_empty()
    {
        return Some(PathBuf::new());
    }
    let real = real(&path)?;
    real.strip_prefix(&real_root).ok().map(Path::to_owned)
}

/// A path without links on the way to its last name, as far as there is something.
fn real(path: &Path) -> Option<PathBuf> {
    if path.file_name().is_none() {
        return path.canonicalize().ok();
    }
    path.ancestors().skip(1).find_map(|dir| {
        let tail = path.strip_prefix(dir).ok()?;
        Some(dir.canonicalize().ok()?.join(tail))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_where_it_leads_to_and_its_last_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("src/releases/7")).unwrap();
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("src/releases/7/page"), "").unwrap();
        symlink("releases/7", at("src/current")).unwrap();
        symlink(at("elsewhere"), at("src/out")).unwrap();
        symlink(at("src"), at("alias")).unwrap();
        for (path, expected) in [
            (at("src"), Some("")),
            (at("src/"), Some("")),
            (at("alias"), None),
            (at("alias/releases"), Some("releases")),
            (at("alias/current/page"), Some("releases/7/page")),
            (at("src/current"), Some("current")),
            (at("src/current/page"), Some("releases/7/page")),
            (
                at("src/current/gone/for/good"),
                Some("releases/7/gone/for/good"),
            ),
            (at("src/releases/.."), Some("")),
            (at("src/releases/../current/page"), Some("releases/7/page")),
            (at("elsewhere/../src/releases"), Some("releases")),
            (at("src/gone/../releases"), Some("gone/../releases")),
            (at("src/out"), Some("out")),
            (at("src/out/x"), None),
            (at("elsewhere/x"), None),
            (at("src/.."), None),
            ("current/page".into(), Some("releases/7/page")),
            (".".into(), Some("")),
        ] {
            let found = below(&at("src"), &path);
            assert_eq!(found.as_deref(), expected.map(Path::new), "{path:?}");
        }
        // The source may be named by a link as well.
        for (path, expected) in [
            ("alias", Some("")),
            ("alias/current/page", Some("releases/7/page")),
            ("src/x", Some("x")),
        ] {
            let found = below(&at("alias"), &at(path));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{path}");
        }
    }

    #[test]
    fn a_source_that_is_gone_still_has_its_paths() {
        let root = Path::new("/nonexistent/source");
        for (path, expected) in [
            ("/nonexistent/source", ""),
            ("/nonexistent/source/a/b", "a/b"),
            ("a", "a"),
        ] {
            assert_eq!(below(root, path.as_ref()), Some(expected.into()), "{path}");
        }
        assert_eq!(below(root, "/nonexistent/other".as_ref()), None);
    }
}
