//! The text of an rsyncd.conf, put together parameter by parameter.

use std::fmt::{self, Write};

/// A configuration: global parameters, then modules in order.
#[derive(Debug, Clone, Default)]
pub struct Conf {
    globals: Section,
    modules: Vec<(String, Section)>,
    tail: String,
}

/// Parameters in the order in which they were first set.
#[derive(Debug, Clone, Default)]
pub struct Section(Vec<(String, String)>);

impl Conf {
    /// The global parameters.
    pub fn globals(&mut self) -> &mut Section {
        &mut self.globals
    }

    /// The module of this name, added at the end if it is new.
    pub fn module(&mut self, name: &str) -> &mut Section {
        let index = self
            .modules
            .iter()
            .position(|(known, _)| known == name)
            .unwrap_or_else(|| {
                self.modules.push((name.to_owned(), Section::default()));
                self.modules.len() - 1
            });
        &mut self.modules[index].1
    }

    /// Text put after everything else as it is, for what a builder would not write.
    pub fn append(&mut self, text: &str) -> &mut Self {
        self.tail.push_str(text);
        self
    }
}

impl Section {
    /// Sets a parameter, replacing an earlier value.
    pub fn set(&mut self, name: &str, value: impl fmt::Display) -> &mut Self {
        let value = value.to_string();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
        self
    }

    /// Takes a parameter out, so that its default holds.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.0.retain(|(known, _)| known != name);
        self
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, value)| writeln!(f, "{name} = {value}"))
    }
}

impl fmt::Display for Conf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.globals)?;
        for (name, section) in &self.modules {
            write!(f, "\n[{name}]\n{section}")?;
        }
        f.write_str(&self.tail)?;
        if self.tail.is_empty() || self.tail.ends_with('\n') {
            Ok(())
        } else {
            f.write_char('\n')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_globals_first_and_each_parameter_once() {
        let mut conf = Conf::default();
        conf.module("demo")
            .set("path", "/old")
            .set("read only", "no")
            .set("list", "no");
        conf.module("demo").set("path", "/new").unset("list");
        conf.globals().set("address", "127.0.0.1");
        conf.append("[odd]\npath=/x");
        let text = "address = 127.0.0.1\n\n[demo]\npath = /new\nread only = no\n[odd]\npath=/x\n";
        assert_eq!(conf.to_string(), text);
    }
}
