//! File modes as `--chmod` takes them: `0644`, `u=rwx,go=rx`.

use std::str::FromStr;

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHERS: u32 = 0o007;
const EXECUTE: u32 = 0o111;
/// What a clause without anybody in it is about.
const EVERYBODY: u32 = SET_USER | SET_GROUP | USER | GROUP | OTHERS;

/// A mode to set, or a change of modes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileMode {
    /// These twelve bits.
    Octal(u32),
    /// Changes, one after the other.
    Symbolic(Vec<ModeChange>),
}

/// A change of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeChange {
    /// Takes bits away.
    Clear(u32),
    /// Adds bits.
    Set(u32),
    /// Adds bits to directories and to files that somebody may execute.
    SetIfExecutable(u32),
    /// Copies the bits of user, group or others.
    Copy {
        /// `+`, `-` or `=`.
        operator: char,
        /// Whose bits: `u`, `g` or `o`.
        from: char,
        /// To whom, as a mask of `USER`-like triples.
        to: u32,
    },
}

/// Why a text is not a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// A number that is no mode.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Octal(String),
    /// Not a list of clauses.
    #[error("invalid syntax")]
    Symbolic,
}

impl FileMode {
    /// Returns what becomes of a mode.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let changes = match self {
            Self::Octal(mode) => return *mode,
            Self::Symbolic(changes) => changes,
        };
        let mut result = mode & 0o7777;
        for change in changes {
            match *change {
                ModeChange::Clear(bits) => result &= !bits,
                ModeChange::Set(bits) => result |= bits,
                ModeChange::SetIfExecutable(bits) => {
                    if is_directory || mode & EXECUTE != 0 {
                        result |= bits;
                    }
                }
                ModeChange::Copy { operator, from, to } => {
                    let bits = match from {
                        'u' => (result & USER) >> 6,
                        'g' => (result & GROUP) >> 3,
                        _ => result & OTHERS,
                    };
                    let bits = (bits << 6 | bits << 3 | bits) & to;
                    match operator {
                        '+' => result |= bits,
                        '-' => result &= !bits,
                        _ => result = result & !(to & (USER | GROUP | OTHERS)) | bits,
                    }
                }
            }
        }
        result
    }
}

impl FromStr for FileMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return mode.map(Self::Octal).ok_or_else(|| ModeError::Octal(text.to_owned()));
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            read_clause(clause, &mut changes)?;
        }
        Ok(Self::Symbolic(changes))
    }
}

/// Reads `[ugoa]*` and one or more of `[+-=][rwxXstugo]*`.
fn read_clause(clause: &str, changes: &mut Vec<ModeChange>) -> Result<(), ModeError> {
    let operations = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    let who = clause[..clause.len() - operations.len()].chars().fold(0, |who, c| {
        who | match c {
            'u' => SET_USER | USER,
            'g' => SET_GROUP | GROUP,
            'o' => OTHERS,
            _ => EVERYBODY,
        }
    });
    let who = if who == 0 { EVERYBODY } else { who };
    let mut rest = operations;
    loop {
        let mut chars = rest.chars();
        let operator = chars.next().filter(|c| matches!(c, '+' | '-' | '=')).ok_or(ModeError::Symbolic)?;
        let after = chars.as_str();
        let length = after.find(['+', '-', '=']).unwrap_or(after.len());
        read_operation(operator, who, &after[..length], changes)?;
        rest = &after[length..];
        if rest.is_empty() {
            return Ok(());
        }
    }
}

fn read_operation(operator: char, who: u32, text: &str, changes: &mut Vec<ModeChange>) -> Result<(), ModeError> {
    let mut bits = 0;
    let mut who = who;
    let mut execute = 0;
    let mut copies = Vec::new();
    for c in text.chars() {
        match c {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= EXECUTE,
            'X' if operator == '+' => execute = EXECUTE,
            'X' => {}
            // Others alone have neither.
            's' if who & !OTHERS != 0 => bits |= SET_USER | SET_GROUP,
            't' if who & !OTHERS != 0 => {
                bits |= STICKY;
                who |= STICKY;
            }
            's' | 't' => {}
            'u' | 'g' | 'o' => copies.push(c),
            _ => return Err(ModeError::Symbolic),
        }
    }
    match operator {
        // A copy replaces the nine bits only.
        '=' if copies.is_empty() || bits != 0 => changes.extend([ModeChange::Clear(who), ModeChange::Set(bits & who)]),
        '-' => changes.push(ModeChange::Clear(bits & who)),
        _ => changes.push(ModeChange::Set(bits & who)),
    }
    if execute != 0 {
        changes.push(ModeChange::SetIfExecutable(execute & who));
    }
    changes.extend(copies.into_iter().map(|from| ModeChange::Copy { operator, from, to: who }));
    Ok(())
}
