//! Packet rules of one private network, in a table of its own.
//!
//! ```text
//! table ip kiln<process>n<number>                         owned by our socket: gone when it closes, however that happens;
//! table ip6 kiln<process>n<number>                        the same where there is IPv6
//!   chain postrouting   from the guest, not to it: masquerade
//!   chain forward       from the guest with another's address: drop
//!                       to the guest: only what belongs to a connection that it began
//!                       neither from nor to any network of kiln's: drop, where the host did not forward before us
//! ```

use std::io;

use super::address::{Family, Subnet};
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

/// All families, and the one whose chains see the packets of both.
const ALL: u8 = 0;
const INET: u8 = 1;

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
    /// The kinds of packets that get out, and whether the host forwards them only because of us, so that nothing else may be.
    pub families: &'a [(Family, bool)],
}

/// The table of one network, there until dropped.
pub struct Rules {
    socket: Socket,
    /// Tables that do not go with the socket.
    unowned: Vec<(Family, String)>,
}

impl Rules {
    /// Makes the table.
    pub fn install(socket: Socket, wire: &Wire) -> io::Result<Self> {
        let unowned = match socket.request(batch(wire, OWNED)) {
            // Kernels before 5.12 have no owners: the table is removed at the end, or swept.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                socket.request(batch(wire, 0))?;
                wire.families.iter().map(|(family, _)| (*family, wire.table.to_owned())).collect()
            }
            result => result.map(|()| Vec::new())?,
        };
        Ok(Self { socket, unowned })
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        for (family, table) in &self.unowned {
            // The next network sweeps what stays.
            let _ = remove(&self.socket, *family as u8, table);
        }
    }
}

/// Removes a table that has no owner any more.
pub fn remove(socket: &Socket, family: u8, table: &str) -> io::Result<()> {
    let mut message = Message::new(DELETE_TABLE, 0, &fixed(family));
    message.text(TABLE_NAME, table);
    socket.request(enclosed(vec![message]))
}

/// Returns family and name of all tables that are called like ours.
pub fn tables(socket: &Socket) -> io::Result<Vec<(u8, String)>> {
    let found = socket.dump(GET_TABLE, &fixed(ALL))?;
    let names = found.iter().filter_map(|table| Some((*table.first()?, text(table.get(4..)?, TABLE_NAME)?)));
    Ok(names.filter(|(_, name)| name.starts_with(PREFIX)).collect())
}

/// The chains that see what is forwarded and drop it, unless told otherwise: family, and name with its table's.
pub struct Forbidding(Vec<(u8, String)>);

impl Forbidding {
    /// Finds those of others than kiln.
    pub fn find(socket: &Socket) -> io::Result<Self> {
        let found = socket.dump(GET_CHAIN, &fixed(ALL))?;
        Ok(Self(found.iter().filter_map(|chain| forbidding(chain)).collect()))
    }

    /// Returns the name of one that sees packets of this kind.
    pub fn of(&self, family: Family) -> Option<&str> {
        let sees = |number: u8| number == INET || number == family as u8;
        self.0.iter().find(|(number, _)| sees(*number)).map(|(_, name)| name.as_str())
    }
}

fn forbidding(chain: &[u8]) -> Option<(u8, String)> {
    let (family, body) = (*chain.first()?, chain.get(4..)?);
    let value = |kind: u16| attributes(body).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let (_, hook) = attributes(value(CHAIN_HOOK)?).find(|(kind, _)| *kind == HOOK_NUMBER)?;
    let drops = value(CHAIN_POLICY)? == DROP.to_be_bytes();
    let (table, name) = (text(body, CHAIN_TABLE)?, text(body, CHAIN_NAME)?);
    (hook == FORWARD.to_be_bytes() && drops).then(|| (family, format!("{table} {name}")))
}

fn text(body: &[u8], kind: u16) -> Option<String> {
    let (_, value) = attributes(body).find(|(found, _)| *found == kind)?;
    Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
}

/// The fixed part of messages: family, version, and the number of the subsystem in batches.
fn fixed(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
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
    enclosed(wire.families.iter().flat_map(|(family, guards_host)| table(wire, *family, *guards_host, flags)).collect())
}

/// The messages that make the table of one family.
fn table(wire: &Wire, family: Family, guards_host: bool, flags: u32) -> Vec<Message> {
    let mut table = Message::new(NEW_TABLE, CREATE | EXCLUSIVE, &fixed(family as u8));
    table.text(TABLE_NAME, wire.table).attribute(TABLE_FLAGS, &flags.to_be_bytes());
    const SOURCE_NAT: i32 = 100;
    const FILTER: i32 = 0;
    let chain = |name, kind, hook, priority| chain(wire, family, name, kind, hook, priority);
    let rule = |chain: &str, fill: &dyn Fn(&mut Rule<'_>)| rule(wire, family, chain, fill);
    let mut messages = vec![
        table,
        chain("postrouting", "nat", POSTROUTING, SOURCE_NAT),
        chain("forward", "filter", FORWARD, FILTER),
        rule("postrouting", &|rule| {
            rule.source_is(family, wire.subnet, true).link(Link::Out, wire.link, false).expression("masq", |_| {});
        }),
        rule("forward", &|rule| {
            rule.link(Link::In, wire.link, true).source_is(family, wire.subnet, false).verdict(DROP);
        }),
        rule("forward", &|rule| {
            rule.link(Link::Out, wire.link, true).belongs_to_connection().verdict(ACCEPT);
        }),
        rule("forward", &|rule| {
            rule.link(Link::Out, wire.link, true).verdict(DROP);
        }),
    ];
    if guards_host {
        messages.push(rule("forward", &|rule| {
            rule.is_not_ours(Link::In).is_not_ours(Link::Out).verdict(DROP);
        }));
    }
    messages
}

fn chain(wire: &Wire, family: Family, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
    let mut chain = Message::new(NEW_CHAIN, CREATE | EXCLUSIVE, &fixed(family as u8));
    chain.text(CHAIN_TABLE, wire.table).text(CHAIN_NAME, name).text(CHAIN_TYPE, kind).nest(CHAIN_HOOK, |fields| {
        fields.attribute(HOOK_NUMBER, &hook.to_be_bytes()).attribute(HOOK_PRIORITY, &priority.to_be_bytes());
    });
    chain
}

fn rule(wire: &Wire, family: Family, chain: &str, fill: &dyn Fn(&mut Rule<'_>)) -> Message {
    let mut message = Message::new(NEW_RULE, CREATE | APPEND, &fixed(family as u8));
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
    fn source_is(&mut self, family: Family, subnet: Subnet, equal: bool) -> &mut Self {
        const NETWORK_HEADER: u32 = 1;
        let (place, guest) = match family {
            Family::Ipv4 => (12, subnet.guest().octets().to_vec()),
            Family::Ipv6 => (8, subnet.guest_v6().octets().to_vec()),
        };
        self.expression("payload", |data| {
            // An address has a few bytes.
            let fields = [NETWORK_HEADER, place, guest.len() as u32].map(u32::to_be_bytes);
            data.attribute(1, &REGISTER).attribute(2, &fields[0]).attribute(3, &fields[1]).attribute(4, &fields[2]);
        });
        self.compare(equal, &guest)
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
