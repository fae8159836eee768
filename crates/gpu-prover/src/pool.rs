//! The devices of a process, and who proves on which.
//!
//! One process drives all of its devices, each by a thread and a context of its own: a context belongs to a thread, witnesses come from the
//! same generators whatever device is free, and a circuit's keys, gigabytes of them, are in the host's memory once. A device has two
//! places: while it proves what is in the one, the witness of the other is on its way.
//!
//! No job is lost to a device. What does not fit one, or has a gate without a kernel, is proven by the CPU; so is what a device failed at.
//! A device that fails, by a driver's error, by a proof that the CPU makes differently, or by silence, is opened once more; after a second
//! failure it is out of service until the process is started again.

use crate::F;
use crate::circuit::{DeviceCircuit, DeviceError, device_bytes};
use crate::device::{ArenaUse, Device};
use crate::driver::DriverError;
use crate::metrics::{CircuitOutcome, DEVICE_METRICS, DeviceLabels, observe};
use crate::nvml::Watch;
use crate::upload::{Shelf, Staged, Wires};
use plonk_prover::sample::{Sample, standard_config};
use plonk_prover::{Circuit, CircuitProver, OnCpu, Proof, Stage, Stages, Unproven, verified, witness_of};
use std::collections::{HashMap, hash_map::Entry};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A device that says nothing for so long hangs: the largest circuits take seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of the self-test's circuit: enough for FRI to fold, and for a scan of more than one block.
const SELF_TEST_ROWS: usize = 110;
/// A device is out of service after so many failures.
const FAILURES_MAX: u32 = 2;
/// Circuits that a device has at a time: one that it proves, and one whose witness is uploaded meanwhile.
const PLACES: usize = 2;
/// How often whoever waits for a device looks whether it is still in service.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How devices are used.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// Bytes of each device's memory that are taken at the start; all but what the driver needs where there is no bound.
    pub max_allocation: Option<usize>,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { max_allocation: None, patience: PATIENCE }
    }
}

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
}

#[derive(Debug)]
struct Seat {
    ordinal: u32,
    /// Bytes of its arena.
    arena: usize,
    jobs: Sender<Job<Staged>>,
    shelf: Arc<Shelf>,
}

/// A circuit that is to be proven. Only what is on the host goes from thread to thread.
struct Job<W> {
    circuit: Arc<Circuit>,
    values: Vec<Option<F>>,
    wires: W,
    answer: Sender<Answer>,
}

impl<W> Job<W> {
    fn with<V>(self, change: impl FnOnce(W) -> V) -> Job<V> {
        let Self { circuit, values, wires, answer } = self;
        Job { circuit, values, wires: change(wires), answer }
    }
}

/// The jobs of a device, in its thread.
struct Jobs {
    queue: Receiver<Job<Staged>>,
    /// The one whose witness may be on its way.
    next: Option<Job<Wires>>,
}

impl Jobs {
    /// The next one; waits for it. `None` when there will be none.
    fn take(&mut self) -> Option<Job<Wires>> {
        self.next.take().or_else(|| Some(self.queue.recv().ok()?.with(Wires::Staged)))
    }

    /// Begins to upload the next one's witness, where there is one, and it fits what the proof at hand leaves of the arena.
    fn look_ahead(&mut self, device: &Device, spare: usize) {
        if self.next.is_none()
            && let Ok(job) = self.queue.try_recv()
        {
            let is_for_now = job.wires.bytes() <= spare;
            self.next =
                Some(job.with(
                    |staged| {
                        if is_for_now { Wires::begin(device, staged) } else { Wires::Staged(staged) }
                    },
                ));
        }
    }

    /// Has nothing on a device any more.
    fn leave_device(&mut self) {
        self.next = self.next.take().map(|job| job.with(|wires| Wires::Staged(wires.cancel())));
    }

    /// All that wait.
    fn rest(&mut self) -> impl Iterator<Item = Sender<Answer>> {
        let next = self.next.take().map(|job| job.answer);
        next.into_iter().chain(self.queue.try_iter().map(|job| job.answer))
    }
}

/// How a job on a device ended.
enum Answer {
    Proven(Box<Proof>),
    /// The device is as it was: the circuit is not for it, or the values do not satisfy it.
    Refused(DeviceError),
    /// The device failed, and was opened again.
    Failed(DeviceError),
    /// The device failed, and is out of service.
    OutOfService(DeviceError),
}

/// What a device's self-test found.
#[derive(Debug, Clone)]
pub struct SelfTest {
    /// Where the time of its proof went.
    pub stages: Stages,
    /// What its arena has.
    pub arena: ArenaUse,
}

/// A device with the circuits that it has proven.
struct Bench {
    device: Device,
    /// By where the circuit is in the host's memory, which a device's circuit holds.
    circuits: HashMap<usize, DeviceCircuit>,
}

impl Bench {
    /// Opens a device and has it prove a small circuit with every kind of gate, which must come out as the CPU's: every kernel has a part in
    /// it.
    fn open(ordinal: u32, settings: PoolSettings) -> Result<(Self, SelfTest), DeviceError> {
        let device = Device::open(ordinal, settings.max_allocation)?;
        let wrong = |what: String| DeviceError::WrongProof { device: ordinal, what };
        let sample = Sample::of_every_gate(&standard_config(), 1, SELF_TEST_ROWS);
        let expected = sample.prove(&mut Stages::default())?;
        let mut stages = Stages::default();
        let proof = DeviceCircuit::new(&device, &sample.circuit)?.prove(&sample.witness(), &mut stages)?;
        if proof != expected {
            return Err(wrong("its self-test is not what the CPU proves".to_owned()));
        }
        let test = SelfTest { stages, arena: device.arena() };
        Ok((Self { device, circuits: HashMap::new() }, test))
    }

    /// A proof that verifies. Meanwhile looks for the next job.
    fn prove(
        &mut self,
        circuit: &Arc<Circuit>,
        values: Vec<Option<F>>,
        wires: Wires,
        jobs: &mut Jobs,
    ) -> Result<Proof, DeviceError> {
        let (begun, mut stages) = (Instant::now(), Stages::default());
        let proof = match self.try_to_prove(circuit, &values, Some(wires), jobs, &mut stages) {
            // What is kept of other circuits, or waits for its turn, may be what is in the way.
            Err(DeviceError::Driver(DriverError::ArenaFull { .. })) if !self.circuits.is_empty() => {
                self.circuits.clear();
                jobs.leave_device();
                self.try_to_prove(circuit, &values, None, jobs, &mut stages)
            }
            result => result,
        };
        let took = begun.elapsed();
        let result = proof.and_then(|proof| checked(self.device.ordinal(), circuit, values, proof));
        let outcome = match &result {
            Ok(_) => CircuitOutcome::Proven,
            Err(error) if error.is_the_devices() => CircuitOutcome::Failed,
            Err(_) => CircuitOutcome::Refused,
        };
        observe(&self.device, &stages, took, outcome);
        result
    }

    fn try_to_prove(
        &mut self,
        circuit: &Arc<Circuit>,
        values: &[Option<F>],
        wires: Option<Wires>,
        jobs: &mut Jobs,
        stages: &mut Stages,
    ) -> Result<Proof, DeviceError> {
        let device = self.device.clone();
        let key = Arc::as_ptr(circuit).addr();
        let on_device = match self.circuits.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(DeviceCircuit::new(&device, circuit)?),
        };
        let is_ahead = matches!(wires, Some(Wires::Uploaded(_)));
        let wires = stages.time(Stage::Upload, || wires.map(|wires| wires.on(&device)).transpose())?;
        if is_ahead {
            DEVICE_METRICS.uploaded_ahead[&DeviceLabels::of(device.ordinal())].inc();
        }
        let arena = device.arena();
        // Of what is used now a part is the circuit's own, and the formula counts it again: rather too little is left.
        let spare = arena.size.saturating_sub(arena.used + device_bytes(&circuit.common));
        let witness = witness_of(circuit, values.to_vec());
        let mut between = || jobs.look_ahead(&device, spare);
        on_device.prove_uploaded(&witness, wires, stages, &mut between)
    }
}

/// Opens a device, tests it, and closes it.
///
/// # Errors
/// [`DeviceError`].
pub fn self_test(ordinal: u32, settings: PoolSettings) -> Result<SelfTest, DeviceError> {
    Bench::open(ordinal, settings).map(|(_, test)| test)
}

/// A device's thread.
fn serve(
    ordinal: u32,
    settings: PoolSettings,
    shelf: &Shelf,
    opened: &Sender<Result<SelfTest, DeviceError>>,
    queue: Receiver<Job<Staged>>,
) {
    let mut bench = match Bench::open(ordinal, settings) {
        Ok((bench, test)) => {
            let _ = opened.send(Ok(test));
            bench
        }
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let mut jobs = Jobs { queue, next: None };
    let mut failures = 0;
    while let Some(Job { circuit, values, wires, answer }) = jobs.take() {
        let result = bench.prove(&circuit, values, wires, &mut jobs);
        shelf.trim(PLACES, &bench.device);
        let error = match result {
            Ok(proof) => {
                let _ = answer.send(Answer::Proven(Box::new(proof)));
                continue;
            }
            Err(error) if !error.is_the_devices() => {
                let _ = answer.send(Answer::Refused(error));
                continue;
            }
            Err(error) => error,
        };
        failures += 1;
        // A context that has seen an error may answer every call with it: another is made.
        jobs.leave_device();
        drop(bench);
        let reopened = if failures < FAILURES_MAX { Bench::open(ordinal, settings).ok() } else { None };
        let Some((another, _)) = reopened else {
            for answer in std::iter::once(answer).chain(jobs.rest()) {
                let _ = answer.send(Answer::OutOfService(error.clone()));
            }
            return;
        };
        bench = another;
        let _ = answer.send(Answer::Failed(error));
    }
}

/// The proof, if it verifies. If it does not, either the values do not satisfy the circuit, and the CPU's does not verify either, or the device
/// is wrong.
fn checked(
    device: u32,
    circuit: &Arc<Circuit>,
    values: Vec<Option<F>>,
    proof: Proof,
) -> Result<Proof, DeviceError> {
    let Err(Unproven::Unverified(what)) = verified(circuit, proof.clone()) else { return Ok(proof) };
    match OnCpu.prove(circuit, values) {
        Ok(_) => Err(DeviceError::WrongProof { device, what }),
        Err(unproven) => Err(DeviceError::Unproven(unproven)),
    }
}

impl Pool {
    /// Opens these devices, and tests each.
    ///
    /// # Errors
    /// [`DeviceError`], the first: whoever names a device wants it.
    pub fn open(devices: &[u32], settings: PoolSettings) -> Result<Self, DeviceError> {
        let mut opening = Vec::new();
        for &ordinal in devices {
            let (jobs, received) = channel();
            let (sender, opened) = channel();
            let shelf = Arc::<Shelf>::default();
            let theirs = shelf.clone();
            let thread = thread::Builder::new().name(format!("device-{ordinal}"));
            let started = thread.spawn(move || serve(ordinal, settings, &theirs, &sender, received));
            started.map_err(|e| DeviceError::Thread { device: ordinal, reason: e.to_string() })?;
            opening.push((Seat { ordinal, arena: 0, jobs, shelf }, opened));
        }
        let mut seats = Vec::new();
        for (mut seat, opened) in opening {
            let silent =
                || DeviceError::Silent { device: seat.ordinal, seconds: settings.patience.as_secs() };
            seat.arena = opened.recv_timeout(settings.patience).map_err(|_| silent())??.arena.size;
            DEVICE_METRICS.in_service[&DeviceLabels::of(seat.ordinal)].set(1);
            seats.push(seat);
        }
        let state = State { taken: vec![0; seats.len()], in_service: vec![true; seats.len()] };
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

    /// Gives a place back, or takes its seat out of service.
    fn give_back(&self, seat: usize, is_in_service: bool) {
        let mut state = self.state();
        state.taken[seat] -= 1;
        state.in_service[seat] &= is_in_service;
        let is_in_service = state.in_service[seat];
        drop(state);
        let in_service = DeviceLabels::of(self.seats[seat].ordinal);
        DEVICE_METRICS.in_service[&in_service].set(u64::from(is_in_service));
        self.changed.notify_all();
    }

    /// The answer of a device, which has as long as one proof may take for each circuit that it has.
    fn wait(&self, seat: usize, answered: &Receiver<Answer>) -> Answer {
        let Seat { ordinal, .. } = self.seats[seat];
        let begun = Instant::now();
        let patience = self.patience * u32::try_from(PLACES).unwrap_or(u32::MAX);
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            match answered.recv_timeout(left.min(LOOK_INTERVAL)) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if !left.is_zero() && self.state().in_service[seat] => {}
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    let silent = DeviceError::Silent { device: ordinal, seconds: patience.as_secs() };
                    return Answer::OutOfService(silent);
                }
                // Another's circuit was its last.
                Err(_) => return Answer::OutOfService(DeviceError::Gone { device: ordinal }),
            }
        }
    }

    /// The device's proof; `None` when the CPU is to make it.
    fn on_a_device(&self, circuit: &Arc<Circuit>, values: &[Option<F>]) -> Option<Result<Proof, Unproven>> {
        let bytes = device_bytes(&circuit.common);
        let Some(number) = self.take_place(bytes) else {
            tracing::debug!(
                "no device in service has the {bytes} bytes that a circuit takes: the CPU proves it"
            );
            return None;
        };
        let Seat { ordinal, jobs, shelf, .. } = &self.seats[number];
        let witness = witness_of(circuit, values.to_vec());
        let wires = shelf.stage(&witness);
        let (answer, answered) = channel();
        let sent = jobs.send(Job { circuit: circuit.clone(), values: witness.values, wires, answer });
        let gone = || Answer::OutOfService(DeviceError::Gone { device: *ordinal });
        let answer = sent.map_or_else(|_| gone(), |()| self.wait(number, &answered));
        self.give_back(number, !matches!(answer, Answer::OutOfService(_)));
        match answer {
            Answer::Proven(proof) => return Some(Ok(*proof)),
            Answer::Refused(DeviceError::Unproven(unproven)) => return Some(Err(unproven)),
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
        None
    }
}

impl CircuitProver for Pool {
    fn prove(&self, circuit: &Arc<Circuit>, values: Vec<Option<F>>) -> Result<Proof, Unproven> {
        self.on_a_device(circuit, &values).unwrap_or_else(|| OnCpu.prove(circuit, values))
    }
}
