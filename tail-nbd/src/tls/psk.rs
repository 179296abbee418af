//! Keys that clients and server share: a file of names and keys, and who has one of them may come in.
//!
//! rustls knows no such keys but those that it has given out itself, so this is done by OpenSSL: TLS 1.3, and one
//! cipher of TLS 1.2. Both make a new key for each connection, so who gets hold of a shared one later learns nothing of what
//! was said before.

use super::identity::{IdentityError, read_secret};
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslVersion};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_openssl::SslStream;

/// Names in one file.
const NAMES_MAX: usize = 4096;
/// Longest name, in bytes: OpenSSL's PSK_MAX_IDENTITY_LEN and GnuTLS' MAX_USERNAME_SIZE.
const NAME_BYTES_MAX: usize = 128;
/// Shortest key, in bytes (RFC 9257, section 6).
const KEY_BYTES_MIN: usize = 16;
/// Longest key, in bytes, that GnuTLS' psktool makes.
const KEY_BYTES_MAX: usize = 64;

/// Why a file of keys cannot be used.
#[derive(Debug, Error)]
pub enum PskError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] IdentityError),
    /// A line is not as it should be. What it is is not said: it may be a key.
    #[error("{}:{line}: {wanted}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What should be there.
        wanted: &'static str,
    },
    /// OpenSSL does not do what we need.
    #[error("OpenSSL cannot be used")]
    OpenSsl(#[from] ErrorStack),
}

/// Names and their keys.
#[derive(PartialEq, Eq)]
pub struct Keys(HashMap<Vec<u8>, Vec<u8>>);

impl Keys {
    /// Reads a file as psktool(1) writes it: `NAME:HEX` in each line. Warns in the log when others may read it.
    ///
    /// # Errors
    /// With the file, and the line that is wrong.
    pub fn load(path: &Path) -> Result<Self, PskError> {
        Self::parse(&read_secret(path)?).map_err(|(line, wanted)| PskError::Line {
            path: path.to_owned(),
            line,
            wanted,
        })
    }

    fn parse(text: &[u8]) -> Result<Self, (usize, &'static str)> {
        let mut keys = HashMap::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |wanted| (index + 1, wanted);
            let line = line.trim_ascii_end();
            if line.is_empty() {
                continue;
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or(wrong("a line is NAME:KEY"))?;
            let (name, key) = (&line[..colon], &line[colon + 1..]);
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(wrong("a name has 1 to 128 bytes"));
            }
            let key = hex(key).filter(|key| (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()));
            let key =
                key.ok_or(wrong("a key has 32 to 128 hexadecimal digits, such as `openssl rand -hex 32` gives"))?;
            if keys.insert(name.to_owned(), key).is_some() {
                return Err(wrong("a second key for this name"));
            }
            if keys.len() > NAMES_MAX {
                return Err(wrong("there may be 4096 names"));
            }
        }
        if keys.is_empty() { Err((1, "there is no key in it")) } else { Ok(Self(keys)) }
    }

    /// How connections are accepted.
    ///
    /// # Errors
    /// When OpenSSL lacks something.
    pub fn into_context(self) -> Result<SslContext, PskError> {
        let mut builder = SslContextBuilder::new(SslMethod::tls_server())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        // Such keys go with SHA-256, unless they say otherwise (RFC 8446, section 4.2.11).
        builder.set_ciphersuites("TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256")?;
        builder.set_cipher_list("ECDHE-PSK-CHACHA20-POLY1305")?;
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        builder.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION);
        builder.set_num_tickets(0)?;
        builder.set_psk_server_callback(move |_, name, space| {
            let Some(key) = name.and_then(|name| self.0.get(name)) else { return Ok(0) };
            let Some(space) = space.get_mut(..key.len()) else { return Ok(0) };
            space.copy_from_slice(key);
            Ok(key.len())
        });
        Ok(builder.build())
    }
}

/// The handshake of a client.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    context: &SslContext,
    client: S,
) -> io::Result<SslStream<S>> {
    let mut stream = SslStream::new(Ssl::new(context)?, client)?;
    Pin::new(&mut stream).accept().await.map_err(io::Error::other)?;
    Ok(stream)
}

fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn names_have_keys() {
        let Ok(keys) = Keys::parse(format!("head1:{KEY}\n\nhead2:{}\r\n", KEY.to_uppercase()).as_bytes()) else {
            panic!("it is as psktool writes it")
        };
        assert_eq!(keys.0.len(), 2);
        assert_eq!(keys.0[b"head1".as_slice()], keys.0[b"head2".as_slice()]);
        assert_eq!(keys.0[b"head1".as_slice()][..3], [0, 0x11, 0x22]);
        keys.into_context().unwrap();
    }

    #[test]
    fn lines_that_are_wrong_are_named_and_not_told() {
        let long = "x".repeat(129);
        for (text, line) in [
            (String::new(), 1),
            (KEY.to_owned(), 1),
            (format!("a:{KEY}\n:{KEY}"), 2),
            (format!("{long}:{KEY}"), 1),
            (format!("a:{}", &KEY[2..]), 1),
            (format!("a:{}", KEY.repeat(5)), 1),
            (format!("a:{KEY}0"), 1),
            (format!("a:{}", KEY.replace('f', "g")), 1),
            (format!("a:{KEY}\nb:{KEY}\na:{KEY}"), 3),
        ] {
            let (at, wanted) = Keys::parse(text.as_bytes()).err().expect(&text);
            assert_eq!(at, line, "{text}: {wanted}");
            assert!(!wanted.contains(&KEY[..8]));
        }
    }
}
