//! Options of the handshake: parsed into checked values, and their replies written.

use super::offer::{Style, export_flags};
use super::wire::{BASE_ALLOCATION, OPTION_REPLY_MAGIC, Reader, info_type, option_reply, option_type};
use crate::geometry::DiscSize;
use crate::limits::{NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use alloc::string::String;
use alloc::vec::Vec;

/// An option whose data has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOption {
    /// The client wants to know something about an export, or to use it.
    Export(Ask),
    /// The client gives up.
    Abort,
    /// The client wants to go on through TLS.
    StartTls,
    /// The client wants structured replies.
    StructuredReply,
    /// The client wants extended headers.
    ExtendedHeaders,
    /// Which contexts are there? True when `base:allocation` fits one of the queries, or there is none.
    ListMetaContext(bool),
    /// Choose contexts for the export `name`; `allocation` is true when `base:allocation` is among them.
    SetMetaContext {
        /// The export's name.
        name: String,
        /// `base:allocation` is wanted.
        allocation: bool,
    },
}

/// A question about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its name; an attachment key is given here.
    pub name: String,
    /// What is asked.
    pub kind: AskKind,
}

/// What is asked about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskKind {
    /// EXPORT_NAME: to use it.
    ExportName,
    /// GO: to use it, and to know these pieces of information.
    Go(Infos),
    /// INFO: to know these pieces of information.
    Info(Infos),
    /// LIST: whether the export without a name may be used.
    List,
}

/// Which pieces of information a client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Infos {
    /// Its name.
    pub name: bool,
    /// A text for people.
    pub description: bool,
    /// Block sizes.
    pub block_size: bool,
}

/// An export that a client may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its size.
    pub size: DiscSize,
    /// A text for people, without secrets.
    pub description: String,
    /// It may not be changed.
    pub read_only: bool,
}

impl ClientOption {
    /// Parses an option's data. The error is the reply type to refuse it with.
    pub fn parse(option: u32, data: &[u8]) -> Result<Self, u32> {
        let invalid = option_reply::ERR_INVALID;
        match option {
            option_type::EXPORT_NAME => {
                let name = core::str::from_utf8(data).ok().filter(|name| name.len() <= NAME_BYTES_MAX as usize);
                Ok(Self::Export(Ask { name: name.ok_or(invalid)?.into(), kind: AskKind::ExportName }))
            }
            option_type::ABORT => Ok(Self::Abort),
            option_type::LIST if data.is_empty() => Ok(Self::Export(Ask { name: String::new(), kind: AskKind::List })),
            option_type::STARTTLS if data.is_empty() => Ok(Self::StartTls),
            option_type::STRUCTURED_REPLY if data.is_empty() => Ok(Self::StructuredReply),
            option_type::EXTENDED_HEADERS if data.is_empty() => Ok(Self::ExtendedHeaders),
            option_type::LIST
            | option_type::STARTTLS
            | option_type::STRUCTURED_REPLY
            | option_type::EXTENDED_HEADERS => Err(invalid),
            option_type::GO | option_type::INFO => {
                let (name, infos) = parse_infos(data).ok_or(invalid)?;
                let kind = if option == option_type::GO { AskKind::Go(infos) } else { AskKind::Info(infos) };
                Ok(Self::Export(Ask { name, kind }))
            }
            option_type::LIST_META_CONTEXT => {
                let (_, queries) = parse_contexts(data).ok_or(invalid)?;
                Ok(Self::ListMetaContext(queries.is_empty() || queries.iter().any(|q| fits_allocation(q))))
            }
            option_type::SET_META_CONTEXT => {
                let (name, queries) = parse_contexts(data).ok_or(invalid)?;
                Ok(Self::SetMetaContext { name, allocation: queries.contains(&BASE_ALLOCATION) })
            }
            _ => Err(option_reply::ERR_UNSUP),
        }
    }
}

/// Appends a reply to an option.
pub fn write_option_reply(out: &mut Vec<u8>, option: u32, reply: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply.to_be_bytes());
    let length = u32::try_from(data.len()).expect("replies are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends the pieces of information that `infos` asks for, and the one that every client gets.
pub fn write_infos(out: &mut Vec<u8>, option: u32, export: &Export, name: &str, infos: Infos, style: Style) {
    let mut info = |kind: u16, fields: &[&[u8]]| {
        let mut data = kind.to_be_bytes().to_vec();
        fields.iter().for_each(|field| data.extend_from_slice(field));
        write_option_reply(out, option, option_reply::INFO, &data);
    };
    info(
        info_type::EXPORT,
        &[&export.size.bytes().to_be_bytes(), &export_flags(style, export.read_only).to_be_bytes()],
    );
    if infos.name {
        info(info_type::NAME, &[name.as_bytes()]);
    }
    if infos.description {
        info(info_type::DESCRIPTION, &[export.description.as_bytes()]);
    }
    if infos.block_size {
        let (minimum, preferred) = (1u32, 4096u32);
        info(
            info_type::BLOCK_SIZE,
            &[&minimum.to_be_bytes(), &preferred.to_be_bytes(), &PAYLOAD_BYTES_MAX.to_be_bytes()],
        );
    }
}

fn parse_infos(data: &[u8]) -> Option<(String, Infos)> {
    let mut reader = Reader(data);
    let name = parse_name(&mut reader)?;
    let mut infos = Infos::default();
    for _ in 0..reader.u16()? {
        match reader.u16()? {
            info_type::NAME => infos.name = true,
            info_type::DESCRIPTION => infos.description = true,
            info_type::BLOCK_SIZE => infos.block_size = true,
            // EXPORT is always sent; unknown ones are to be ignored.
            _ => {}
        }
    }
    reader.is_empty().then_some((name, infos))
}

fn parse_contexts(data: &[u8]) -> Option<(String, Vec<&str>)> {
    let mut reader = Reader(data);
    let name = parse_name(&mut reader)?;
    let count = reader.u32()?;
    // Each query has a length field, so the data bounds how many there can be.
    if u64::from(count) * 4 > reader.0.len() as u64 {
        return None;
    }
    let queries = (0..count).map(|_| reader.text()).collect::<Option<Vec<_>>>()?;
    reader.is_empty().then_some((name, queries))
}

fn parse_name(reader: &mut Reader<'_>) -> Option<String> {
    reader.text().filter(|name| name.len() <= NAME_BYTES_MAX as usize).map(Into::into)
}

/// A LIST query may name a whole namespace, by a text that ends with a colon.
fn fits_allocation(query: &str) -> bool {
    query == "base:" || query == BASE_ALLOCATION
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn go_data(name: &str, infos: &[u16]) -> Vec<u8> {
        let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(&u16::try_from(infos.len()).unwrap().to_be_bytes());
        infos.iter().for_each(|info| data.extend_from_slice(&info.to_be_bytes()));
        data
    }

    #[test]
    fn go_names_the_export_and_the_infos() {
        let parsed = ClientOption::parse(option_type::GO, &go_data("key", &[info_type::BLOCK_SIZE, 77])).unwrap();
        let infos = Infos { block_size: true, ..Infos::default() };
        assert_eq!(parsed, ClientOption::Export(Ask { name: "key".into(), kind: AskKind::Go(infos) }));
    }

    #[test]
    fn data_that_is_cut_or_too_long_is_invalid() {
        let whole = go_data("key", &[info_type::NAME]);
        for cut in 0..whole.len() {
            let parsed = ClientOption::parse(option_type::GO, &whole[..cut]);
            assert_eq!(parsed, Err(option_reply::ERR_INVALID), "cut at {cut}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert_eq!(ClientOption::parse(option_type::INFO, &longer), Err(option_reply::ERR_INVALID));
        assert_eq!(ClientOption::parse(option_type::GO, &[0xff; 6]), Err(option_reply::ERR_INVALID));
        use option_type::{EXTENDED_HEADERS, LIST, STARTTLS, STRUCTURED_REPLY};
        for option in [LIST, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS] {
            assert_eq!(ClientOption::parse(option, b"x"), Err(option_reply::ERR_INVALID), "option {option}");
        }
        let name = vec![b'x'; NAME_BYTES_MAX as usize + 1];
        assert_eq!(ClientOption::parse(option_type::EXPORT_NAME, &name), Err(option_reply::ERR_INVALID));
        assert_eq!(ClientOption::parse(option_type::EXPORT_NAME, b"\xff"), Err(option_reply::ERR_INVALID));
    }

    #[test]
    fn a_context_count_cannot_make_us_take_memory() {
        let mut data = 0u32.to_be_bytes().to_vec();
        data.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(ClientOption::parse(option_type::LIST_META_CONTEXT, &data), Err(option_reply::ERR_INVALID));
    }

    #[test]
    fn options_to_come_are_unsupported() {
        for option in [4, 12, u32::MAX] {
            assert_eq!(ClientOption::parse(option, &[]), Err(option_reply::ERR_UNSUP), "option {option}");
        }
    }
}
