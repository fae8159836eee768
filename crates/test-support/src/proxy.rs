//! A proxy before a PostgreSQL server that breaks what a test asks it to: at a chosen statement or commit of the program that it
//! serves, or all connections at once. One program a proxy, so that a trap is that program's.

use std::{
    collections::HashMap,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// When a trap closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The server has not seen it.
    Before,
    /// The server has done it, and the program has no answer.
    After,
    /// The server has done it, and the answer is on its way; only of the object store.
    Passed,
}

/// What a trap waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A statement with these words.
    Statement(&'static str),
    /// A statement with these words that returns rows; only [`Moment::After`].
    Rows(&'static str),
    /// The commit of a transaction in which a statement with these words ran.
    Commit(&'static str),
}

/// What becomes of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Everything passes.
    Whole,
    /// Nothing passes, on old connections and new ones; none is closed.
    Stalled,
    /// Connections are reset, and new ones as well.
    Reset,
    /// The program is told that no more comes, and what it sends is not read. New connections the same.
    HalfClosed,
    /// Connections that there are stay silent for ever, also when the network is whole again; new ones pass.
    Forgotten,
}

#[derive(Debug)]
struct State {
    trap: Mutex<Option<(Target, Moment, mpsc::Sender<()>)>>,
    network: watch::Sender<Network>,
}

/// The proxy; it ends with the test's process.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// A proxy before the server with this socket.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(server: PathBuf) -> Self {
        let state = Arc::new(State { trap: Mutex::default(), network: watch::Sender::new(Network::Whole) });
        let (told, port) = mpsc::channel();
        let theirs = state.clone();
        // A runtime of its own: tests block.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
                let _ = told.send(listener.local_addr().expect("it is bound").port());
                while let Ok((client, _)) = listener.accept().await {
                    let (server, state) = (server.clone(), theirs.clone());
                    tokio::spawn(async move { serve(client, &server, state).await });
                }
            });
        });
        Self { port: port.recv().expect("the proxy listens"), state }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets a trap; what comes back hears when it has closed. The connection stays as it is then.
    #[must_use]
    pub fn trap(&self, target: Target, moment: Moment) -> mpsc::Receiver<()> {
        let (closed, heard) = mpsc::channel();
        *lock(&self.state.trap) = Some((target, moment, closed));
        heard
    }

    /// Changes the network.
    pub fn set_network(&self, network: Network) {
        self.state.network.send_replace(network);
    }
}

/// What the two directions of a connection know of each other.
#[derive(Default)]
struct Exchange {
    /// The answer to what was just sent is held: the trap closes when it is whole.
    held: Option<Held>,
}

struct Held {
    needs_rows: bool,
    has_rows: bool,
    closed: mpsc::Sender<()>,
    target: Target,
}

async fn serve(client: TcpStream, server: &std::path::Path, state: Arc<State>) {
    let mut network = state.network.subscribe();
    let (Ok(server), Ok(socket)) = (
        UnixStream::connect(server).await,
        client.as_fd().try_clone_to_owned().map(std::net::TcpStream::from),
    ) else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let exchange = Mutex::new(Exchange::default());
    let forward = async {
        tokio::select! {
            () = requests(&mut from_client, &mut to_server, &state, &exchange) => {}
            () = answers(&mut from_server, &mut to_client, &state, &exchange) => {}
        }
    };
    tokio::pin!(forward);
    loop {
        let now = *network.borrow_and_update();
        match now {
            Network::Whole | Network::Forgotten => tokio::select! {
                () = &mut forward => return,
                changed = network.changed() => {
                    if changed.is_err() || *network.borrow() == Network::Forgotten {
                        std::future::pending::<()>().await;
                    }
                }
            },
            // Both sides are closed with what they were sending.
            Network::Reset => return,
            Network::Stalled | Network::HalfClosed => {
                if now == Network::HalfClosed {
                    let _ = socket.shutdown(std::net::Shutdown::Write);
                }
                if network.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                if now == Network::HalfClosed {
                    return;
                }
            }
        }
    }
}

/// A message's length, with its type, once it is whole: `None` otherwise.
fn whole_message(buffer: &[u8], has_type: bool) -> Option<usize> {
    let start = usize::from(has_type);
    let length = buffer.get(start..start + 4)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize + start;
    (buffer.len() >= length).then_some(length)
}

fn text(bytes: &[u8]) -> (&str, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (std::str::from_utf8(&bytes[..end]).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default())
}

/// From the program to the server, message by message.
async fn requests(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    state: &State,
    exchange: &Mutex<Exchange>,
) {
    let mut buffer = Vec::new();
    let mut is_started = false;
    let mut statements: HashMap<String, String> = HashMap::new();
    // What ran in the transaction at hand.
    let mut transaction = String::new();
    loop {
        while let Some(length) = whole_message(&buffer, is_started) {
            let message: Vec<u8> = buffer.drain(..length).collect();
            if !is_started {
                // A request for encryption comes before the start, and is answered with one byte.
                is_started = message.get(4..8) != Some(&80_877_103_u32.to_be_bytes());
            } else if let Some(hit) = look(&message, &mut statements, &mut transaction, state) {
                let (target, moment, closed) = hit;
                if moment == Moment::Before {
                    let _ = closed.send(());
                    // Nothing more passes, but for the program's end.
                    let mut ignored = [0; 4096];
                    while from.read(&mut ignored).await.is_ok_and(|bytes| bytes > 0) {}
                    return;
                }
                let needs_rows = matches!(target, Target::Rows(_));
                lock(exchange).held = Some(Held { needs_rows, has_rows: false, closed, target });
            }
            if to.write_all(&message).await.is_err() {
                return;
            }
        }
        if from.read_buf(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {
            continue;
        }
        return;
    }
}

type Trap = (Target, Moment, mpsc::Sender<()>);

/// Whether the trap closes at this message.
fn look(
    message: &[u8],
    statements: &mut HashMap<String, String>,
    transaction: &mut String,
    state: &State,
) -> Option<Trap> {
    let (kind, body) = message.split_first()?;
    let body = body.get(4..)?;
    let mut trap = lock(&state.trap);
    let closes = match kind {
        b'P' => {
            let (name, rest) = text(body);
            statements.insert(name.to_owned(), text(rest).0.to_owned());
            false
        }
        b'B' => {
            let statement = statements.get(text(text(body).1).0).map(String::as_str).unwrap_or_default();
            transaction.push_str(statement);
            match trap.as_ref() {
                Some((Target::Statement(words) | Target::Rows(words), ..)) => statement.contains(words),
                _ => false,
            }
        }
        b'Q' => {
            let words = text(body).0;
            let ran = if words.starts_with("COMMIT") || words.starts_with("BEGIN") {
                std::mem::take(transaction)
            } else {
                String::new()
            };
            match trap.as_ref() {
                Some((Target::Commit(of), ..)) => words.starts_with("COMMIT") && ran.contains(of),
                _ => false,
            }
        }
        _ => false,
    };
    closes.then(|| trap.take()).flatten()
}

/// From the server to the program; an answer that is held is collected, and let go when the trap is not for it.
async fn answers(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    state: &State,
    exchange: &Mutex<Exchange>,
) {
    let mut buffer = Vec::new();
    loop {
        if !from.read_buf(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {
            return;
        }
        let closed = {
            let mut exchange = lock(exchange);
            let is_whole = match &mut exchange.held {
                None => None,
                Some(held) => {
                    let mut rest = buffer.as_slice();
                    let mut is_whole = false;
                    while let Some(length) = whole_message(rest, true) {
                        held.has_rows |= rest[0] == b'D';
                        is_whole |= rest[0] == b'Z';
                        rest = &rest[length..];
                    }
                    Some(is_whole)
                }
            };
            match (is_whole, exchange.held.take()) {
                (Some(false), held) => {
                    exchange.held = held;
                    continue;
                }
                (Some(true), Some(held)) if held.needs_rows && !held.has_rows => {
                    *lock(&state.trap) = Some((held.target, Moment::After, held.closed));
                    None
                }
                (Some(true), Some(held)) => Some(held.closed),
                _ => None,
            }
        };
        if let Some(closed) = closed {
            let _ = closed.send(());
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer).await.is_err() {
            return;
        }
        buffer.clear();
    }
}
