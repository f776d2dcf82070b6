//! `filter explain`: what the rules say about one path, and why.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncd_proto::meta::Kind;
use syncd_proto::path::WirePath;

use super::{print, read_config};
use crate::cli::{ExplainArgs, RunArgs};
use crate::error::Fatal;
use crate::fs::root::SourceRoot;
use crate::logic::filter::{Rules, Verdict};
use crate::pipeline::selection::Selection;

/// Exit code of a path that does not take part.
const EXIT_EXCLUDED: u8 = 1;

pub(super) fn run(args: ExplainArgs) -> Result<u8, Fatal> {
    let (source, rules, path) = choose(sources(args.run)?, &args.path)?;
    let root = SourceRoot::open(&source).map_err(|error| Fatal::Source(source.clone(), error))?;
    let is_dir = match root
        .stat(&path)
        .map_err(|error| Fatal::Source(source, error))?
    {
        Some(entry) => entry.kind == Kind::Dir,
        None => args.path.as_os_str().as_bytes().ends_with(b"/"),
    };
    let selection = Selection::new(&rules, Arc::new(root))?;
    let verdict = selection.verdict(&path, is_dir);
    let kind = if is_dir { "directory " } else { "" };
    let mut text = match &verdict {
        Verdict::Included(None) => format!("included: {kind}{path}\n  no rule matches\n"),
        Verdict::Included(Some(by)) => format!("included: {kind}{path}\n  by {by}\n"),
        Verdict::Excluded { by, above: None } => format!("excluded: {kind}{path}\n  by {by}\n"),
        Verdict::Excluded {
            by,
            above: Some(above),
        } => format!("excluded: {kind}{path}\n  with its directory {above}\n  by {by}\n"),
    };
    text.push_str(if selection.protects(&path, is_dir, None) {
        "at the target: never removed\n"
    } else {
        "at the target: removed when the source has not got it\n"
    });
    if let Some((_, problem)) = selection.problem() {
        text.push_str(&format!("  {problem}\n"));
    }
    print(&text)?;
    Ok(if verdict.is_included() {
        0
    } else {
        EXIT_EXCLUDED
    })
}

fn sources(args: RunArgs) -> Result<Vec<(PathBuf, Rules)>, Fatal> {
    match (args.config, args.source) {
        (Some(file), _) => {
            let config = read_config(&file)?;
            let sources = config.sources.into_iter();
            Ok(sources.map(|source| (source.path, source.rules)).collect())
        }
        (None, Some(source)) => Ok(vec![(source, args.source_args.into_rules())]),
        (None, None) => Err(Fatal::Usage(
            "name --config FILE, or the source directory with its rules".into(),
        )),
    }
}

/// The source that a path is in, and the path from there.
fn choose(
    sources: Vec<(PathBuf, Rules)>,
    path: &Path,
) -> Result<(PathBuf, Rules, WirePath), Fatal> {
    let only = sources.len() == 1;
    let found = sources.into_iter().find_map(|(source, rules)| {
        let tail = if path.is_absolute() {
            let source = std::path::absolute(&source).ok()?;
            path.strip_prefix(&source).ok()?.to_owned()
        } else {
            only.then(|| path.to_owned())?
        };
        let tail = WirePath::from_relative(&tail)?;
        Some((source, rules, tail))
    });
    found.ok_or_else(|| {
        let path = path.display();
        Fatal::Usage(format!(
            "{path} is below no source: write it absolute, or from the only source"
        ))
    })
}
