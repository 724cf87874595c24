//! Ruby's OptionParser, as far as einhorn's users know it: bundled short options, attached values,
//! abbreviated long ones. Pure: it takes words apart and does not know what an option means.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// One option.
#[derive(Debug, PartialEq, Eq)]
pub struct Switch {
    pub short: Option<char>,
    /// Without dashes.
    pub long: &'static str,
    /// What the help calls its value; `None`: it takes none.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

/// What a word turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// The value is empty for a switch that takes none.
    Option(&'static Switch, OsString),
    /// Only in permuting mode.
    Operand(OsString),
}

/// Takes a command line apart, one option at a time, so that `-h` acts before a later mistake.
#[derive(Debug)]
pub struct Words {
    switches: &'static [Switch],
    words: VecDeque<OsString>,
    /// What is left of a word of short options.
    bundle: Vec<u8>,
    permute: bool,
    only_operands: bool,
}

impl Words {
    /// In order mode the options end at the first word that is none, and at `--`.
    pub fn in_order(switches: &'static [Switch], words: Vec<OsString>) -> Words {
        let words = words.into();
        Words {
            switches,
            words,
            bundle: Vec::new(),
            permute: false,
            only_operands: false,
        }
    }

    /// In permuting mode options and operands may be mixed, up to `--`.
    pub fn permuting(switches: &'static [Switch], words: Vec<OsString>) -> Words {
        Words {
            permute: true,
            ..Words::in_order(switches, words)
        }
    }

    /// The next option or operand; `None` where they end.
    ///
    /// # Errors
    /// In OptionParser's words: `invalid option: --x`, `missing argument: -n`, ….
    pub fn next_item(&mut self) -> Result<Option<Item>, String> {
        if !self.bundle.is_empty() {
            return self.short().map(Some);
        }
        if self.only_operands {
            let operand = if self.permute {
                self.words.pop_front()
            } else {
                None
            };
            return Ok(operand.map(Item::Operand));
        }
        let Some(word) = self.words.front() else {
            return Ok(None);
        };
        match word.as_bytes() {
            b"--" => {
                self.words.pop_front();
                self.only_operands = true;
                self.next_item()
            }
            [b'-', b'-', long @ ..] => {
                let long = long.to_vec();
                self.words.pop_front();
                self.long(&long).map(Some)
            }
            [b'-', first, ..] if first.is_ascii() => {
                self.bundle = word.as_bytes()[1..].to_vec();
                self.words.pop_front();
                self.short().map(Some)
            }
            _ if self.permute => Ok(self.words.pop_front().map(Item::Operand)),
            _ => Ok(None),
        }
    }

    /// What follows the options.
    pub fn rest(self) -> Vec<OsString> {
        self.words.into()
    }

    fn short(&mut self) -> Result<Item, String> {
        let letter = char::from(self.bundle.remove(0));
        let found = self
            .switches
            .iter()
            .find(|switch| switch.short == Some(letter));
        let Some(switch) = found else {
            return Err(format!("invalid option: -{letter}"));
        };
        let value = match switch.value {
            None => OsString::new(),
            Some(_) if self.bundle.is_empty() => self.following(&format!("-{letter}"))?,
            Some(_) => OsString::from_vec(std::mem::take(&mut self.bundle)),
        };
        Ok(Item::Option(switch, value))
    }

    fn long(&mut self, word: &[u8]) -> Result<Item, String> {
        let (name, attached) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (
                &word[..at],
                Some(OsStr::from_bytes(&word[at + 1..]).to_owned()),
            ),
            None => (word, None),
        };
        let shown = format!("--{}", String::from_utf8_lossy(name));
        let switch = self.complete(name, &shown)?;
        let value = match (switch.value, attached) {
            (None, None) => OsString::new(),
            (None, Some(_)) => return Err(format!("needless argument: {shown}")),
            (Some(_), Some(value)) => value,
            (Some(_), None) => self.following(&shown)?,
        };
        Ok(Item::Option(switch, value))
    }

    /// The whole name, or a beginning that only one has.
    fn complete(&self, name: &[u8], shown: &str) -> Result<&'static Switch, String> {
        let is_prefix = |switch: &&Switch| {
            switch.long.len() >= name.len()
                && switch.long.as_bytes()[..name.len()].eq_ignore_ascii_case(name)
        };
        let fitting: Vec<&'static Switch> = self.switches.iter().filter(is_prefix).collect();
        match fitting[..] {
            [switch] => Ok(switch),
            [] => Err(format!("invalid option: {shown}")),
            _ => match fitting
                .iter()
                .find(|switch| switch.long.len() == name.len())
            {
                Some(switch) => Ok(switch),
                None => Err(format!("ambiguous option: {shown}")),
            },
        }
    }

    /// The next word is the value, whatever it looks like.
    fn following(&mut self, option: &str) -> Result<OsString, String> {
        self.words
            .pop_front()
            .ok_or_else(|| format!("missing argument: {option}"))
    }
}

/// The options' part of a help text.
pub fn help(switches: &[Switch]) -> String {
    let mut text = String::new();
    for switch in switches {
        let short = switch
            .short
            .map_or("    ".into(), |letter| format!("-{letter}, "));
        let value = switch
            .value
            .map_or(String::new(), |value| format!(" {value}"));
        text.push_str(&format!("    {short}--{}{value}\n", switch.long));
        text.push_str(&format!("            {}\n", switch.help));
    }
    text
}
