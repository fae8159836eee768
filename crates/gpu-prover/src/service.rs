//! A device's thread: proves what comes, has the next witness uploaded meanwhile, and opens the device again when it fails.

use crate::circuit::{DeviceCircuit, device_bytes};
use crate::device::{ArenaUse, Device};
use crate::driver::DriverError;
use crate::metrics::{DEVICE_METRICS, DeviceLabels, observe};
use crate::settings::{PLACES, PoolSettings};
use crate::upload::{Shelf, Staged, Wires};
use crate::{DeviceError, F};
use plonk_prover::sample::{Sample, standard_config};
use plonk_prover::{Circuit, Proof, Stage, Stages};
use std::collections::{HashMap, hash_map::Entry};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

/// Of the self-test's circuit: enough for FRI to fold, and for a scan of more than one block.
const SELF_TEST_ROWS: usize = 110;
/// A device is out of service after so many failures.
const FAILURES_MAX: u32 = 2;

/// What a device's thread is asked for. Only what is on the host goes from thread to thread.
pub(crate) enum Order<W = Staged> {
    /// A proof.
    Prove(Job<W>),
    /// To take the device for one that failed: a proof of it does not verify, and the CPU's does.
    Distrust(DeviceError, Sender<Answer>),
}

/// A circuit that is to be proven.
pub(crate) struct Job<W> {
    pub(crate) circuit: Arc<Circuit>,
    pub(crate) public_inputs: Vec<F>,
    pub(crate) wires: W,
    pub(crate) answer: Sender<Answer>,
}

/// How it ended.
pub(crate) enum Answer {
    /// With a proof, which nobody has verified.
    Proven(Box<Proof>),
    /// The device is as it was: the circuit is not for it.
    Refused(DeviceError),
    /// The device failed, and was opened again.
    Failed(DeviceError),
    /// The device failed, and is out of service.
    OutOfService(DeviceError),
}

impl<W> Order<W> {
    fn with<V>(self, change: impl FnOnce(W) -> V) -> Order<V> {
        match self {
            Self::Prove(Job { circuit, public_inputs, wires, answer }) => {
                Order::Prove(Job { circuit, public_inputs, wires: change(wires), answer })
            }
            Self::Distrust(error, answer) => Order::Distrust(error, answer),
        }
    }

    fn answer(self) -> Sender<Answer> {
        match self {
            Self::Prove(Job { answer, .. }) | Self::Distrust(_, answer) => answer,
        }
    }
}

/// What a device is asked for, one after the other.
struct Orders {
    queue: Receiver<Order>,
    /// The one whose witness may be on its way.
    next: Option<Order<Wires>>,
}

impl Orders {
    /// The next one; waits for it. `None` when there will be none.
    fn take(&mut self) -> Option<Order<Wires>> {
        self.next.take().or_else(|| Some(self.queue.recv().ok()?.with(Wires::Staged)))
    }

    /// Begins to upload the next one's witness, where there is one, and it fits what the proof at hand leaves of the arena.
    fn look_ahead(&mut self, device: &Device, spare: usize) {
        if self.next.is_none()
            && let Ok(order) = self.queue.try_recv()
        {
            self.next = Some(order.with(|staged| {
                if staged.bytes() <= spare { Wires::begin(device, staged) } else { Wires::Staged(staged) }
            }));
        }
    }

    /// Has nothing on the device any more.
    fn leave_device(&mut self) {
        self.next = self.next.take().map(|order| order.with(|wires| Wires::Staged(wires.cancel())));
    }

    /// All who wait.
    fn rest(&mut self) -> impl Iterator<Item = Sender<Answer>> {
        let next = self.next.take().map(Order::answer);
        next.into_iter().chain(self.queue.try_iter().map(Order::answer))
    }
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

    /// Proves a circuit, and looks for what comes after it meanwhile.
    fn prove(
        &mut self,
        circuit: &Arc<Circuit>,
        public_inputs: &[F],
        wires: Wires,
        orders: &mut Orders,
    ) -> Result<Proof, DeviceError> {
        let (begun, mut stages) = (Instant::now(), Stages::default());
        if matches!(wires, Wires::Uploaded(_)) {
            DEVICE_METRICS.uploaded_ahead[&DeviceLabels::of(self.device.ordinal())].inc();
        }
        let proof = match self.try_to_prove(circuit, public_inputs, wires, orders, &mut stages) {
            Err((DeviceError::Driver(DriverError::ArenaFull { .. }), staged)) => {
                // What is kept of other circuits, or waits for its turn, may be what is in the way.
                self.circuits.clear();
                orders.leave_device();
                self.try_to_prove(circuit, public_inputs, Wires::Staged(staged), orders, &mut stages)
            }
            result => result,
        };
        observe(&self.device, &stages, begun.elapsed());
        proof.map_err(|(error, _)| error)
    }

    /// As [`Bench::prove`]; where it fails, the wires are on the host.
    fn try_to_prove(
        &mut self,
        circuit: &Arc<Circuit>,
        public_inputs: &[F],
        wires: Wires,
        orders: &mut Orders,
        stages: &mut Stages,
    ) -> Result<Proof, (DeviceError, Staged)> {
        let loaded = stages.time(Stage::Upload, || wires.on(&self.device));
        let (wires, staged) = loaded.map_err(|(error, staged)| (error.into(), staged))?;
        let on_device = match self.circuits.entry(Arc::as_ptr(circuit).addr()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => match DeviceCircuit::new(&self.device, circuit) {
                Ok(new) => place.insert(new),
                Err(error) => return Err((error, staged)),
            },
        };
        let arena = self.device.arena();
        // Of what is used now a part is the circuit's own, and the formula counts it again: rather too little is left.
        let spare = arena.size.saturating_sub(arena.used + device_bytes(&circuit.common));
        let mut between = || orders.look_ahead(&self.device, spare);
        let proof = on_device.prove_uploaded(public_inputs.to_vec(), wires, stages, &mut between);
        proof.map_err(|error| (error, staged))
    }
}

/// Opens a device, tests it, and closes it.
///
/// # Errors
/// [`DeviceError`].
pub fn self_test(ordinal: u32, settings: PoolSettings) -> Result<SelfTest, DeviceError> {
    Bench::open(ordinal, settings).map(|(_, test)| test)
}

/// The device's thread. Ends when nobody can ask any more, or the device is out of service.
pub(crate) fn serve(
    ordinal: u32,
    settings: PoolSettings,
    shelf: &Shelf,
    opened: &Sender<Result<SelfTest, DeviceError>>,
    queue: Receiver<Order>,
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
    let mut orders = Orders { queue, next: None };
    let mut failures = 0;
    while let Some(order) = orders.take() {
        let (error, answer) = match order {
            Order::Prove(Job { circuit, public_inputs, wires, answer }) => {
                let result = bench.prove(&circuit, &public_inputs, wires, &mut orders);
                shelf.trim(PLACES, &bench.device);
                match result {
                    Ok(proof) => {
                        let _ = answer.send(Answer::Proven(Box::new(proof)));
                        continue;
                    }
                    Err(error) if !error.is_the_devices() => {
                        let _ = answer.send(Answer::Refused(error));
                        continue;
                    }
                    Err(error) => (error, answer),
                }
            }
            Order::Distrust(error, answer) => (error, answer),
        };
        failures += 1;
        // A context that has seen an error may answer every call with it: another is made.
        orders.leave_device();
        drop(bench);
        let reopened = if failures < FAILURES_MAX { Bench::open(ordinal, settings).ok() } else { None };
        let Some((another, _)) = reopened else {
            for answer in std::iter::once(answer).chain(orders.rest()) {
                let _ = answer.send(Answer::OutOfService(error.clone()));
            }
            return;
        };
        bench = another;
        let _ = answer.send(Answer::Failed(error));
    }
}
