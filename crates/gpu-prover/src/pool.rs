//! The devices of a process, and who proves on which.
//!
//! One process drives all of its devices, each by a thread and a context of its own: a context belongs to a thread, witnesses come from the
//! same generators whatever device is free, and a circuit's keys, gigabytes of them, are in the host's memory once. A device has two
//! places: while it proves what is in the one, the witness of the other is on its way.
//!
//! No job is lost to a device. What does not fit one, or has a gate without a kernel, is proven by the CPU; so is what a device failed at.
//! A device that fails, by a driver's error, by a proof that the CPU makes differently, or by silence, is opened once more; after a second
//! failure it is out of service until the process is started again.

use crate::circuit::device_bytes;
use crate::metrics::{self, CircuitOutcome, DEVICE_METRICS, DeviceLabels, OutcomeLabels};
use crate::nvml::Watch;
use crate::service::{Answer, Job, Order, serve};
use crate::settings::PLACES;
use crate::upload::Shelf;
use crate::{DeviceError, F};
use plonk_prover::{Circuit, CircuitProver, OnCpu, Proof, Unproven, public_inputs, verified, witness_of};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use crate::service::{SelfTest, self_test};
pub use crate::settings::PoolSettings;

/// How often whoever waits for a device looks whether it is still in service.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Devices that prove.
#[derive(Debug)]
pub struct Pool {
    seats: Vec<Seat>,
    state: Mutex<State>,
    changed: Condvar,
    patience: Duration,
    _watch: Option<Watch>,
}

#[derive(Debug)]
struct State {
    /// How many of each seat's places are taken.
    taken: Vec<usize>,
    /// Which are in service.
    in_service: Vec<bool>,
    /// When each answered last.
    answered: Vec<Instant>,
}

#[derive(Debug)]
struct Seat {
    ordinal: u32,
    /// Bytes of its arena.
    arena: usize,
    orders: Sender<Order>,
    shelf: Arc<Shelf>,
}

impl Pool {
    /// Opens these devices, and tests each.
    ///
    /// # Errors
    /// [`DeviceError`], the first: whoever names a device wants it.
    pub fn open(devices: &[u32], settings: PoolSettings) -> Result<Self, DeviceError> {
        let mut opening = Vec::new();
        for &ordinal in devices {
            let (orders, received) = channel();
            let (sender, opened) = channel();
            let shelf = Arc::<Shelf>::default();
            let theirs = shelf.clone();
            let thread = thread::Builder::new().name(format!("device-{ordinal}"));
            let started = thread.spawn(move || serve(ordinal, settings, &theirs, &sender, received));
            started.map_err(|e| DeviceError::Thread { device: ordinal, reason: e.to_string() })?;
            opening.push((Seat { ordinal, arena: 0, orders, shelf }, opened));
        }
        let mut seats = Vec::new();
        for (mut seat, opened) in opening {
            let silent =
                || DeviceError::Silent { device: seat.ordinal, seconds: settings.patience.as_secs() };
            seat.arena = opened.recv_timeout(settings.patience).map_err(|_| silent())??.arena.size;
            metrics::begin(seat.ordinal, seat.arena);
            seats.push(seat);
        }
        let count = seats.len();
        let state = State {
            taken: vec![0; count],
            in_service: vec![true; count],
            answered: vec![Instant::now(); count],
        };
        Ok(Self {
            seats,
            state: Mutex::new(state),
            changed: Condvar::new(),
            patience: settings.patience,
            _watch: Watch::start(devices),
        })
    }

    /// How many devices it began with.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// How many circuits it takes at a time; more wait.
    #[must_use]
    pub fn places(&self) -> usize {
        self.len() * PLACES
    }

    /// How long its devices have worked on circuits since this process began, all together.
    #[must_use]
    pub fn busy(&self) -> Duration {
        let seconds =
            self.seats.iter().map(|seat| DEVICE_METRICS.busy_seconds[&DeviceLabels::of(seat.ordinal)].get());
        Duration::from_secs_f64(seconds.sum())
    }

    /// Whether it began with none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of its devices are in service.
    #[must_use]
    pub fn in_service(&self) -> usize {
        self.state().in_service.iter().filter(|is| **is).count()
    }

    /// A seat with a free place whose device has so much memory: of those the least busy, and of these the one with the least memory. Waits
    /// for one while others work. `None` when no device in service has so much.
    fn take_place(&self, bytes: usize) -> Option<usize> {
        let fits = |state: &State, seat: usize| state.in_service[seat] && self.seats[seat].arena >= bytes;
        let seats = || 0..self.seats.len();
        let is_to_wait = |state: &mut State| {
            let mut fitting = seats().filter(|seat| fits(state, *seat)).peekable();
            fitting.peek().is_some() && fitting.all(|seat| state.taken[seat] >= PLACES)
        };
        let waited = self.changed.wait_while(self.state(), is_to_wait);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let free = seats().filter(|seat| fits(&state, *seat) && state.taken[*seat] < PLACES);
        let best = free.min_by_key(|seat| (state.taken[*seat], self.seats[*seat].arena))?;
        state.taken[best] += 1;
        Some(best)
    }

    fn give_back(&self, seat: usize) {
        self.state().taken[seat] -= 1;
        self.changed.notify_all();
    }

    /// Takes a device out of service, or says that it is in.
    fn note(&self, seat: usize, answer: &Answer) {
        let mut state = self.state();
        state.answered[seat] = Instant::now();
        state.in_service[seat] &= !matches!(answer, Answer::OutOfService(_));
        let is_in_service = state.in_service[seat];
        drop(state);
        DEVICE_METRICS.in_service[&DeviceLabels::of(self.seats[seat].ordinal)].set(u64::from(is_in_service));
        self.changed.notify_all();
    }

    fn count(&self, seat: usize, outcome: CircuitOutcome) {
        let device = self.seats[seat].ordinal.to_string();
        DEVICE_METRICS.circuits[&OutcomeLabels { device, outcome }].inc();
    }

    /// Asks a device for something, and waits for the answer.
    fn ask(&self, seat: usize, order: impl FnOnce(Sender<Answer>) -> Order) -> Answer {
        let Seat { ordinal, orders, .. } = &self.seats[seat];
        let (answer, answered) = channel();
        let gone = || Answer::OutOfService(DeviceError::Gone { device: *ordinal });
        let answer = orders.send(order(answer)).map_or_else(|_| gone(), |()| self.wait(seat, &answered));
        self.note(seat, &answer);
        answer
    }

    /// The answer of a device, which has so long since it answered anybody.
    fn wait(&self, seat: usize, answered: &Receiver<Answer>) -> Answer {
        let Seat { ordinal, .. } = self.seats[seat];
        let asked = Instant::now();
        loop {
            let (is_in_service, last) = {
                let state = self.state();
                (state.in_service[seat], state.answered[seat].max(asked))
            };
            let left = self.patience.saturating_sub(last.elapsed());
            match answered.recv_timeout(left.min(LOOK_INTERVAL)) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if is_in_service && !left.is_zero() => {}
                Err(RecvTimeoutError::Timeout) if is_in_service => {
                    let silent = DeviceError::Silent { device: ordinal, seconds: self.patience.as_secs() };
                    return Answer::OutOfService(silent);
                }
                // Another's circuit was its last.
                Err(_) => return Answer::OutOfService(DeviceError::Gone { device: ordinal }),
            }
        }
    }

    /// The device's proof; the values when the CPU is to make it.
    fn on_a_device(
        &self,
        circuit: &Arc<Circuit>,
        values: Vec<Option<F>>,
    ) -> Result<Result<Proof, Unproven>, Vec<Option<F>>> {
        let bytes = device_bytes(&circuit.common);
        let Some(number) = self.take_place(bytes) else {
            tracing::debug!(
                "no device in service has the {bytes} bytes that a circuit takes: the CPU proves it"
            );
            return Err(values);
        };
        let Seat { ordinal, shelf, .. } = &self.seats[number];
        let witness = witness_of(circuit, values);
        let (wires, circuit) = (shelf.stage(&witness), circuit.clone());
        let public_inputs = public_inputs(&circuit.prover_only, &witness);
        let values = witness.values;
        let proof = self.ask(number, |answer| {
            Order::Prove(Job { circuit: circuit.clone(), public_inputs, wires, answer })
        });
        self.give_back(number);
        let answer = match proof {
            Answer::Proven(proof) => match verified(&circuit, *proof) {
                Ok(proof) => {
                    self.count(number, CircuitOutcome::Proven);
                    return Ok(Ok(proof));
                }
                // Either the values do not satisfy the circuit, and the CPU's proof does not verify either, or the device is wrong.
                Err(unverified) => match OnCpu.prove(&circuit, values) {
                    Ok(proof) => {
                        let wrong =
                            DeviceError::WrongProof { device: *ordinal, what: unverified.to_string() };
                        let answer = self.ask(number, |answer| Order::Distrust(wrong, answer));
                        self.tell(number, &answer);
                        return Ok(Ok(proof));
                    }
                    Err(unproven) => {
                        self.count(number, CircuitOutcome::Refused);
                        return Ok(Err(unproven));
                    }
                },
            },
            answer => answer,
        };
        self.tell(number, &answer);
        Err(values)
    }

    /// Tells why the CPU proves a circuit.
    fn tell(&self, seat: usize, answer: &Answer) {
        let Seat { ordinal, .. } = self.seats[seat];
        match answer {
            Answer::Proven(_) => {}
            Answer::Refused(error) => tracing::warn!("a circuit is proven on the CPU: {error}"),
            Answer::Failed(error) => {
                tracing::error!(
                    "device {ordinal} failed, and was opened again; the CPU proves its circuit: {error}"
                );
            }
            Answer::OutOfService(error) => {
                tracing::error!(
                    "device {ordinal} is out of service until this process is started again; the CPU proves its circuit: {error}"
                );
            }
        }
        let is_refused = matches!(answer, Answer::Refused(_));
        self.count(seat, if is_refused { CircuitOutcome::Refused } else { CircuitOutcome::Failed });
    }
}

impl CircuitProver for Pool {
    fn prove(&self, circuit: &Arc<Circuit>, values: Vec<Option<F>>) -> Result<Proof, Unproven> {
        self.on_a_device(circuit, values).unwrap_or_else(|values| OnCpu.prove(circuit, values))
    }
}
