//! Packet rules of one private network, in a table of its own.
//!
//! ```text
//! table ip kiln<process>n<number>                         owned by our socket: gone when it closes, however that happens
//!   chain postrouting   from the guest, not to it: masquerade
//!   chain forward       from the guest with another's address: drop
//!                       to the guest: only what belongs to a connection that it began
//!                       neither from nor to any network of kiln's: drop, where the host did not forward before us
//! ```

use std::io;

use super::address::Subnet;
use super::netlink::{APPEND, CREATE, EXCLUSIVE, Message, Socket, attributes};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// The table lives as long as the socket that made it.
const OWNED: u32 = 2;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

const FORWARD: u32 = 2;
const POSTROUTING: u32 = 4;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// The `ip` family.
const IPV4: u8 = 2;
/// Families whose chains see our packets: `inet` and `ip`.
const FAMILIES: [u8; 2] = [1, IPV4];

/// How the names of our tables and links begin.
pub const PREFIX: &str = "kiln";

/// One private network, as the rules see it.
pub struct Wire<'a> {
    /// The name of the table.
    pub table: &'a str,
    /// The number of the host's end.
    pub link: u32,
    /// Its addresses.
    pub subnet: Subnet,
    /// Whether the host forwards packets only because of us, so that nothing else may be forwarded.
    pub guards_host: bool,
}

/// The table of one network, there until dropped.
pub struct Rules {
    socket: Socket,
    /// The name of a table that does not go with the socket.
    unowned: Option<String>,
}

impl Rules {
    /// Makes the table.
    pub fn install(wire: &Wire) -> io::Result<Self> {
        let socket = Socket::netfilter()?;
        let unowned = match socket.request(batch(wire, OWNED)) {
            // Kernels before 5.12 have no owners: the table is removed at the end, or swept.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                socket.request(batch(wire, 0))?;
                Some(wire.table.to_owned())
            }
            result => result.map(|()| None)?,
        };
        Ok(Self { socket, unowned })
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        if let Some(table) = &self.unowned {
            // The next network sweeps what stays.
            let _ = remove(&self.socket, table);
        }
    }
}

/// Removes a table that has no owner any more.
pub fn remove(socket: &Socket, table: &str) -> io::Result<()> {
    let mut message = Message::new(DELETE_TABLE, 0, &family(IPV4));
    message.text(TABLE_NAME, table);
    socket.request(enclosed(vec![message]))
}

/// Returns the names of all tables that are called like ours.
pub fn tables(socket: &Socket) -> io::Result<Vec<String>> {
    let found = socket.dump(GET_TABLE, &family(IPV4))?;
    let names = found.iter().filter_map(|table| text(table.get(4..)?, TABLE_NAME));
    Ok(names.filter(|name| name.starts_with(PREFIX)).collect())
}

/// Returns the name of a chain of somebody else's that drops what is forwarded, unless told otherwise.
pub fn forbidding_chain(socket: &Socket) -> io::Result<Option<String>> {
    for number in FAMILIES {
        for chain in socket.dump(GET_CHAIN, &family(number))? {
            let Some(body) = chain.get(4..) else { continue };
            let value = |kind: u16| attributes(body).find(|(found, _)| *found == kind).map(|(_, value)| value);
            let hook = value(CHAIN_HOOK).and_then(|hook| attributes(hook).find(|(kind, _)| *kind == HOOK_NUMBER));
            let is_forward = hook.is_some_and(|(_, number)| number == FORWARD.to_be_bytes());
            if is_forward && value(CHAIN_POLICY).is_some_and(|policy| policy == DROP.to_be_bytes()) {
                let (table, name) = (text(body, CHAIN_TABLE), text(body, CHAIN_NAME));
                return Ok(Some(format!("{} {}", table.unwrap_or_default(), name.unwrap_or_default())));
            }
        }
    }
    Ok(None)
}

fn text(body: &[u8], kind: u16) -> Option<String> {
    let (_, value) = attributes(body).find(|(found, _)| *found == kind)?;
    Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
}

/// The fixed part of messages: family, version, and the number of the subsystem in batches.
fn family(number: u8) -> [u8; 4] {
    [number, 0, 0, 0]
}

/// Puts messages into a batch, which the kernel takes whole or not at all.
fn enclosed(messages: Vec<Message>) -> Vec<Message> {
    let edge = |kind| Message::silent(kind, &[0, 0, 0, 10]);
    let mut batch = vec![edge(BATCH_BEGIN)];
    batch.extend(messages);
    batch.push(edge(BATCH_END));
    batch
}

fn batch(wire: &Wire, flags: u32) -> Vec<Message> {
    let mut table = Message::new(NEW_TABLE, CREATE | EXCLUSIVE, &family(IPV4));
    table.text(TABLE_NAME, wire.table).attribute(TABLE_FLAGS, &flags.to_be_bytes());
    const SOURCE_NAT: i32 = 100;
    const FILTER: i32 = 0;
    let mut messages = vec![
        table,
        chain(wire, "postrouting", "nat", POSTROUTING, SOURCE_NAT),
        chain(wire, "forward", "filter", FORWARD, FILTER),
        rule(wire, "postrouting", |rule| {
            rule.source_is(wire.subnet, true).link(Link::Out, wire.link, false).expression("masq", |_| {});
        }),
        rule(wire, "forward", |rule| {
            rule.link(Link::In, wire.link, true).source_is(wire.subnet, false).verdict(DROP);
        }),
        rule(wire, "forward", |rule| {
            rule.link(Link::Out, wire.link, true).belongs_to_connection().verdict(ACCEPT);
        }),
        rule(wire, "forward", |rule| {
            rule.link(Link::Out, wire.link, true).verdict(DROP);
        }),
    ];
    if wire.guards_host {
        messages.push(rule(wire, "forward", |rule| {
            rule.is_not_ours(Link::In).is_not_ours(Link::Out).verdict(DROP);
        }));
    }
    enclosed(messages)
}

fn chain(wire: &Wire, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
    let mut chain = Message::new(NEW_CHAIN, CREATE | EXCLUSIVE, &family(IPV4));
    chain.text(CHAIN_TABLE, wire.table).text(CHAIN_NAME, name).text(CHAIN_TYPE, kind).nest(CHAIN_HOOK, |fields| {
        fields.attribute(HOOK_NUMBER, &hook.to_be_bytes()).attribute(HOOK_PRIORITY, &priority.to_be_bytes());
    });
    chain
}

fn rule(wire: &Wire, chain: &str, fill: impl FnOnce(&mut Rule<'_>)) -> Message {
    let mut message = Message::new(NEW_RULE, CREATE | APPEND, &family(IPV4));
    message.text(RULE_TABLE, wire.table).text(RULE_CHAIN, chain);
    message.nest(RULE_EXPRESSIONS, |list| fill(&mut Rule(list)));
    message
}

/// The two ends of a packet's way through the host: the key of the link's number, and of its name.
#[derive(Clone, Copy)]
enum Link {
    In,
    Out,
}

/// A rule being written: each expression loads something into register 1 or compares what is there; a comparison that fails
/// ends the rule.
struct Rule<'a>(&'a mut Message);

/// The first register, and the one that holds the verdict.
const REGISTER: [u8; 4] = 1u32.to_be_bytes();
const VERDICT: [u8; 4] = 0u32.to_be_bytes();

impl Rule<'_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Message)) -> &mut Self {
        self.0.nest(LIST_ELEMENT, |element| {
            element.text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, fill);
        });
        self
    }

    fn compare(&mut self, equal: bool, value: &[u8]) -> &mut Self {
        let operation = u32::from(!equal).to_be_bytes();
        self.expression("cmp", |data| {
            data.attribute(1, &REGISTER).attribute(2, &operation).nest(3, |inner| {
                inner.attribute(1, value);
            });
        })
    }

    fn load_meta(&mut self, key: u32) -> &mut Self {
        self.expression("meta", |data| {
            data.attribute(1, &REGISTER).attribute(2, &key.to_be_bytes());
        })
    }

    /// The packet's source is, or is not, the guest.
    fn source_is(&mut self, subnet: Subnet, equal: bool) -> &mut Self {
        const NETWORK_HEADER: u32 = 1;
        const SOURCE: u32 = 12;
        const LENGTH: u32 = 4;
        self.expression("payload", |data| {
            let fields = [NETWORK_HEADER, SOURCE, LENGTH].map(u32::to_be_bytes);
            data.attribute(1, &REGISTER).attribute(2, &fields[0]).attribute(3, &fields[1]).attribute(4, &fields[2]);
        });
        self.compare(equal, &subnet.guest().octets())
    }

    fn link(&mut self, link: Link, index: u32, equal: bool) -> &mut Self {
        self.load_meta(match link {
            Link::In => 4,
            Link::Out => 5,
        });
        self.compare(equal, &index.to_ne_bytes())
    }

    /// The link's name does not begin as ours do.
    fn is_not_ours(&mut self, link: Link) -> &mut Self {
        self.load_meta(match link {
            Link::In => 6,
            Link::Out => 7,
        });
        self.compare(false, PREFIX.as_bytes())
    }

    /// The connection is established, or related to one that is.
    fn belongs_to_connection(&mut self) -> &mut Self {
        const STATE: u32 = 0;
        const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
        self.expression("ct", |data| {
            data.attribute(1, &REGISTER).attribute(2, &STATE.to_be_bytes());
        });
        self.expression("bitwise", |data| {
            data.attribute(1, &REGISTER).attribute(2, &REGISTER).attribute(3, &4u32.to_be_bytes());
            data.nest(4, |mask| {
                mask.attribute(1, &ESTABLISHED_OR_RELATED.to_ne_bytes());
            });
            data.nest(5, |xor| {
                xor.attribute(1, &[0; 4]);
            });
        });
        self.compare(false, &[0; 4])
    }

    fn verdict(&mut self, code: u32) -> &mut Self {
        const VALUE: u16 = 2;
        self.expression("immediate", |data| {
            data.attribute(1, &VERDICT).nest(2, |inner| {
                inner.nest(VALUE, |verdict| {
                    verdict.attribute(1, &code.to_be_bytes());
                });
            });
        })
    }
}
