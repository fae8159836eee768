//! The devices of a process, and who proves on which.
//!
//! One process drives all of its devices, each by a thread and a context of its own: a context belongs to a thread, witnesses come from the
//! same generators whatever device is free, and a circuit's keys, gigabytes of them, are in the host's memory once.
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
use plonk_prover::sample::{Sample, standard_config};
use plonk_prover::{Circuit, CircuitProver, OnCpu, Proof, Stages, Unproven, verified, witness_of};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A device that says nothing for so long hangs: the largest circuits take seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of the self-test's circuit: enough for FRI to fold, and for a scan of more than one block.
const SELF_TEST_ROWS: usize = 110;
/// A device is out of service after so many failures.
const FAILURES_MAX: u32 = 2;

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

/// Devices that prove, one circuit each at a time.
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
    /// Numbers of the seats that are free.
    free: Vec<usize>,
    /// Which are in service.
    in_service: Vec<bool>,
}

#[derive(Debug)]
struct Seat {
    ordinal: u32,
    /// Bytes of its arena.
    arena: usize,
    jobs: Sender<Job>,
}

struct Job {
    circuit: Arc<Circuit>,
    values: Vec<Option<F>>,
    answer: Sender<Answer>,
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

    /// A proof that verifies.
    fn prove(&mut self, circuit: &Arc<Circuit>, values: Vec<Option<F>>) -> Result<Proof, DeviceError> {
        let (begun, mut stages) = (Instant::now(), Stages::default());
        let proof = match self.try_to_prove(circuit, &values, &mut stages) {
            // What is kept of other circuits may be what is in the way.
            Err(DeviceError::Driver(DriverError::ArenaFull { .. })) if !self.circuits.is_empty() => {
                self.circuits.clear();
                self.try_to_prove(circuit, &values, &mut stages)
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
        stages: &mut Stages,
    ) -> Result<Proof, DeviceError> {
        let key = Arc::as_ptr(circuit).addr();
        if !self.circuits.contains_key(&key) {
            self.circuits.insert(key, DeviceCircuit::new(&self.device, circuit)?);
        }
        let witness = witness_of(circuit, values.to_vec());
        self.circuits[&key].prove(&witness, stages)
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
    opened: &Sender<Result<SelfTest, DeviceError>>,
    jobs: &Receiver<Job>,
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
    let mut failures = 0;
    while let Ok(Job { circuit, values, answer }) = jobs.recv() {
        let error = match bench.prove(&circuit, values) {
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
        drop(bench);
        let reopened = if failures < FAILURES_MAX { Bench::open(ordinal, settings).ok() } else { None };
        let Some((another, _)) = reopened else {
            let _ = answer.send(Answer::OutOfService(error));
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
            let thread = thread::Builder::new().name(format!("device-{ordinal}"));
            let started = thread.spawn(move || serve(ordinal, settings, &sender, &received));
            started.map_err(|e| DeviceError::Thread { device: ordinal, reason: e.to_string() })?;
            opening.push((Seat { ordinal, arena: 0, jobs }, opened));
        }
        let mut seats = Vec::new();
        for (mut seat, opened) in opening {
            let silent =
                || DeviceError::Silent { device: seat.ordinal, seconds: settings.patience.as_secs() };
            seat.arena = opened.recv_timeout(settings.patience).map_err(|_| silent())??.arena.size;
            DEVICE_METRICS.in_service[&DeviceLabels::of(seat.ordinal)].set(1);
            seats.push(seat);
        }
        let state = State { free: (0..seats.len()).collect(), in_service: vec![true; seats.len()] };
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

    /// A free seat whose device has so much memory, of those the one with the least; waits for one while others work. `None` when no device in
    /// service has so much.
    fn take_seat(&self, bytes: usize) -> Option<usize> {
        let fits = |seat: usize| self.seats[seat].arena >= bytes;
        let is_to_wait = |state: &mut State| {
            let mut in_service = state.in_service.iter().enumerate();
            !state.free.iter().any(|seat| fits(*seat)) && in_service.any(|(seat, is)| *is && fits(seat))
        };
        let waited = self.changed.wait_while(self.state(), is_to_wait);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..state.free.len()).filter(|at| fits(state.free[*at]));
        let smallest = fitting.min_by_key(|at| self.seats[state.free[*at]].arena)?;
        Some(state.free.swap_remove(smallest))
    }

    /// Gives a seat back, or takes it out of service.
    fn give_back(&self, seat: usize, is_in_service: bool) {
        let in_service = DeviceLabels::of(self.seats[seat].ordinal);
        DEVICE_METRICS.in_service[&in_service].set(u64::from(is_in_service));
        let mut state = self.state();
        if is_in_service {
            state.free.push(seat);
        } else {
            state.in_service[seat] = false;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The device's proof; `None` when the CPU is to make it.
    fn on_a_device(&self, circuit: &Arc<Circuit>, values: &[Option<F>]) -> Option<Result<Proof, Unproven>> {
        let bytes = device_bytes(&circuit.common);
        let Some(number) = self.take_seat(bytes) else {
            tracing::debug!(
                "no device in service has the {bytes} bytes that a circuit takes: the CPU proves it"
            );
            return None;
        };
        let Seat { ordinal, jobs, .. } = &self.seats[number];
        let (answer, answered) = channel();
        let job = Job { circuit: circuit.clone(), values: values.to_vec(), answer };
        let silent = || DeviceError::Silent { device: *ordinal, seconds: self.patience.as_secs() };
        let answer = jobs.send(job).ok().and_then(|()| answered.recv_timeout(self.patience).ok());
        let answer = answer.unwrap_or_else(|| Answer::OutOfService(silent()));
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
