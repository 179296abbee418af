//! How the data of a disc moves between its file and its clients. Clients cannot tell: what a disc offers does not depend
//! on it (safety rule 16).

use serde::Deserialize;
use std::str::FromStr;

/// How a pool's data files are read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoMode {
    /// Through the page cache; large reads of what is in it go out as the cache's own pages, without a copy. A write that
    /// overlaps a read whose reply is still on its way may show in that reply.
    #[default]
    Cached,
    /// Through the page cache, and always copied: a reply is what the file held when it was read, whatever is written
    /// before the client has taken it.
    Copied,
}

impl FromStr for IoMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cached" => Ok(Self::Cached),
            "copied" => Ok(Self::Copied),
            _ => Err("it is cached or copied".to_owned()),
        }
    }
}
