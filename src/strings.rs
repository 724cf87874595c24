//! C strings for execve(2), one after another in one piece of memory. It knows nothing of what
//! they mean.

use std::ffi::CStr;

/// A list of C strings. It is two allocations however many they are: after each fork a process
/// pays for every page of memory that it writes to, and strings of their own lie on many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Strings {
    /// Adds the parts as one string. It ends at the first NUL in them, as its reader would see it.
    pub fn push(&mut self, parts: &[&[u8]]) {
        let start = self.bytes.len();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        let added = &self.bytes[start..];
        let end = added.iter().position(|byte| *byte == 0);
        self.bytes.truncate(start + end.unwrap_or(added.len()));
        self.bytes.push(0);
        self.starts.push(start);
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.starts.iter().map(|start| {
            CStr::from_bytes_until_nul(&self.bytes[*start..]).expect("push ends each with a NUL")
        })
    }

    /// The array that execve(2) takes: a pointer to each, and this many nulls. It is good until
    /// the next `push`.
    pub fn pointers(&self, nulls: usize) -> Vec<*const libc::c_char> {
        let mut pointers = Vec::new();
        for start in &self.starts {
            pointers.push(self.bytes[*start..].as_ptr().cast());
        }
        pointers.resize(self.len() + nulls, std::ptr::null());
        pointers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_made_of_their_parts_and_end_at_a_nul() {
        let mut strings = Strings::default();
        strings.push(&[b"A", b"=", b"one"]);
        strings.push(&[]);
        strings.push(&[b"cut\0off", b"too"]);
        strings.push(&[b"\xff"]);
        let found: Vec<_> = strings.iter().map(CStr::to_bytes).collect();
        assert_eq!(found, [&b"A=one"[..], b"", b"cut", b"\xff"]);
        assert_eq!((strings.len(), strings.pointers(2).len()), (4, 6));
    }
}
