//! The rules of an rsync daemon's module: which names it hides.
//!
//! `filter`, `include` and `exclude` hold rules divided by white space, `include from` and `exclude from` name files.
//! They count in the daemon's own order, and a directory that is excluded as `dir/` is so with all that is in it.

use std::path::Path;

use super::parse::Style;
use super::{Filter, FilterError, Origin, ReadFile, RuleRef};

/// What a module's parameters say, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DaemonRules {
    /// `filter`.
    pub filter: Vec<u8>,
    /// `include from`, if it is set.
    pub include_from: Vec<u8>,
    /// `include`.
    pub include: Vec<u8>,
    /// `exclude from`, if it is set.
    pub exclude_from: Vec<u8>,
    /// `exclude`.
    pub exclude: Vec<u8>,
}

impl DaemonRules {
    /// Whether there is nothing to compile.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Filter {
    /// Compiles the rules of a module; `read` brings the texts of the files they name.
    ///
    /// # Errors
    /// The first rule that cannot be used, or a file that cannot be read: nothing may be served then.
    pub fn of_daemon(rules: &DaemonRules, read: &mut ReadFile<'_>) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        let rule = Style {
            of_module: true,
            ..Style::FILTER
        };
        let pattern = |include| Style {
            of_module: true,
            ..Style::patterns(include)
        };
        filter.add_words(&rules.filter, rule, "filter", read)?;
        filter.add_named(&rules.include_from, pattern(true), "include from", read)?;
        filter.add_words(&rules.include, pattern(true), "include", read)?;
        filter.add_named(&rules.exclude_from, pattern(false), "exclude from", read)?;
        filter.add_words(&rules.exclude, pattern(false), "exclude", read)?;
        if let Some(file) = filter.per_dir.first() {
            let hint = "write the rules into the configuration, or merge one file";
            return Err(FilterError::new(
                &file.by,
                "a module has no rules per directory",
                hint,
            ));
        }
        Ok(filter)
    }

    fn add_words(
        &mut self,
        text: &[u8],
        style: Style,
        parameter: &str,
        read: &mut ReadFile<'_>,
    ) -> Result<(), FilterError> {
        let origin = Origin::option(parameter);
        rules(text, style).try_for_each(|rule| self.add(rule, style, &origin, read, 0))
    }

    fn add_named(
        &mut self,
        file: &[u8],
        style: Style,
        parameter: &str,
        read: &mut ReadFile<'_>,
    ) -> Result<(), FilterError> {
        use std::os::unix::ffi::OsStrExt;
        if file.is_empty() {
            return Ok(());
        }
        let by = RuleRef {
            text: file.to_vec(),
            origin: Origin::option(parameter),
        };
        let file = Path::new(std::ffi::OsStr::from_bytes(file));
        self.add_file(file, style, &by, read, 0)
    }
}

/// The rules of a text, divided at white space; the space between a rule's prefix and its pattern divides nothing.
fn rules(text: &[u8], style: Style) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return None;
        }
        let word = |text: &[u8]| {
            text.iter()
                .position(u8::is_ascii_whitespace)
                .unwrap_or(text.len())
        };
        let first = word(rest);
        let prefix = style.has_open_prefix(&rest[..first]);
        let end = if prefix && rest.get(first) == Some(&b' ') {
            first + 1 + word(&rest[first + 1..])
        } else {
            first
        };
        let (rule, after) = rest.split_at(end);
        rest = after;
        Some(rule)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::Scope;
    use crate::path::WirePath;

    fn compile(rules: &DaemonRules) -> Result<Filter, FilterError> {
        Filter::of_daemon(rules, &mut |file| match file.to_str() {
            Some("/list") => Ok(b"# none\n; none\n\n*.tmp\n".to_vec()),
            _ => Err("no such file".to_owned()),
        })
    }

    fn hides(rules: &DaemonRules, name: &str) -> bool {
        let (name, is_dir) = match name.strip_suffix('/') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let path = WirePath::from_relative(name.as_ref()).unwrap();
        let filter = compile(rules).unwrap();
        !filter
            .verdict(&path, is_dir, &mut |_| Scope::default())
            .is_included()
    }

    fn exclude(text: &str) -> DaemonRules {
        DaemonRules {
            exclude: text.into(),
            ..DaemonRules::default()
        }
    }

    #[test]
    fn words_are_rules_and_may_have_old_prefixes() {
        for (text, name, hidden) in [
            ("*.tmp", "x.tmp", true),
            ("*.tmp", "d/x.tmp", true),
            ("*.tmp,*.bak", "x.tmp", false),
            ("*.bak  *.tmp", "x.tmp", true),
            ("/x.tmp", "x.tmp", true),
            ("/x.tmp", "d/x.tmp", false),
            ("+ x.tmp - *.tmp", "x.tmp", false),
            ("+ x.tmp - *.tmp", "y.tmp", true),
            ("*.tmp # scratch files", "scratch", true),
            ("*.tmp # scratch files", "#", true),
            ("*.TMP", "x.tmp", false),
            ("private/", "private/", true),
            ("private/", "private/f", true),
            ("private/", "private", false),
            ("a/b", "x/a/b", true),
            ("/a/b", "x/a/b", false),
        ] {
            assert_eq!(hides(&exclude(text), name), hidden, "{text}: {name}");
        }
    }

    #[test]
    fn the_parameters_count_in_the_daemons_order() {
        let rules = DaemonRules {
            filter: b"+ keep.tmp -_odd.txt merge,- /list".to_vec(),
            include: b"x.tmp".to_vec(),
            exclude_from: b"/list".to_vec(),
            ..DaemonRules::default()
        };
        assert!(!hides(&rules, "keep.tmp") && hides(&rules, "odd.txt"));
        assert!(hides(&rules, "x.tmp"), "the file in `filter` comes first");
        let rules = DaemonRules {
            include_from: b"/list".to_vec(),
            exclude: b"*".to_vec(),
            ..DaemonRules::default()
        };
        assert!(!hides(&rules, "x.tmp") && hides(&rules, "x.txt"));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for (parameter, text) in [
            ("filter", "*.tmp"),
            ("filter", ": .rules"),
            ("filter", "merge /none"),
            ("exclude from", "/none"),
            ("exclude", "a[b"),
        ] {
            let mut rules = DaemonRules::default();
            let place = match parameter {
                "filter" => &mut rules.filter,
                "exclude" => &mut rules.exclude,
                _ => &mut rules.exclude_from,
            };
            *place = text.into();
            let error = compile(&rules).unwrap_err().to_string();
            assert!(error.starts_with(parameter), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_well(filter: Vec<u8>, exclude: Vec<u8>) {
            let rules = DaemonRules { filter, exclude, ..DaemonRules::default() };
            let _ = compile(&rules);
        }
    }
}
