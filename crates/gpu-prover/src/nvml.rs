//! What NVIDIA's management library tells of devices, where it is installed: memory, temperature, power, and the driver's own errors (Xid).

use crate::metrics::{DEVICE_METRICS, DeviceLabels};
use cust::device::{Device as CudaDevice, DeviceAttribute};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::struct_wrappers::event::EventData;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;
use std::{ffi::OsStr, thread};

/// The environment variable that names another library than the system's.
const NVML_VARIABLE: &str = "ROUNDHOUSE_NVML";
/// The name under which NVIDIA's driver installs it.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(5);
const SECOND_MILLISECONDS: u32 = 1_000;

/// Watches devices until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    _stop: Sender<()>,
}

impl Watch {
    /// Begins, where the library is.
    pub(crate) fn start(ordinals: &[u32]) -> Option<Self> {
        let named = std::env::var_os(NVML_VARIABLE);
        let library = named.as_deref().unwrap_or(OsStr::new(LIBRARY));
        let nvml = match Nvml::builder().lib_path(library).init() {
            Ok(nvml) => nvml,
            Err(e) => {
                tracing::info!(
                    "no temperatures and no power of devices are told: {}: {e}",
                    library.display()
                );
                return None;
            }
        };
        let devices: Vec<(u32, String)> =
            ordinals.iter().filter_map(|ordinal| Some((*ordinal, bus_of(*ordinal)?))).collect();
        let (stop, stopped) = channel();
        let watching = move || watch(&nvml, &devices, &stopped);
        // It is no part of proving: without it there are no such metrics.
        thread::Builder::new().name("devices-watch".to_owned()).spawn(watching).ok()?;
        Some(Self { _stop: stop })
    }
}

/// Where a device is plugged in: CUDA and the library number devices differently.
fn bus_of(ordinal: u32) -> Option<String> {
    let device = CudaDevice::get_device(ordinal).ok()?;
    let part = |attribute| device.get_attribute(attribute).ok();
    let (domain, bus) = (part(DeviceAttribute::PciDomainId)?, part(DeviceAttribute::PciBusId)?);
    Some(format!("{domain:08X}:{bus:02X}:{:02X}.0", part(DeviceAttribute::PciDeviceId)?))
}

fn watch(nvml: &Nvml, devices: &[(u32, String)], stopped: &Receiver<()>) {
    let events = registered(nvml, devices);
    loop {
        for (ordinal, bus) in devices {
            if let Err(e) = look(nvml, *ordinal, bus) {
                tracing::debug!("nothing is told of device {ordinal} at {bus}: {e}");
            }
        }
        for _ in 0..INTERVAL.as_secs() {
            match events.as_ref().map(|events| events.wait(SECOND_MILLISECONDS)) {
                Some(Ok(event)) => report(devices, &event),
                Some(Err(NvmlError::Timeout)) => {}
                None | Some(Err(_)) => thread::sleep(Duration::from_secs(1)),
            }
            if stopped.try_recv() == Err(TryRecvError::Disconnected) {
                return;
            }
        }
    }
}

/// An error that the driver reports of a device. If it matters to what is proven, a call of CUDA's fails too.
fn report(devices: &[(u32, String)], event: &EventData<'_>) {
    let bus = event.device.pci_info().map_or(String::new(), |info| info.bus_id);
    let xid = match event.event_data {
        Some(XidError::Value(number)) => number.to_string(),
        _ => "of unknown number".to_owned(),
    };
    tracing::error!("the driver reports Xid {xid} of the device at {bus}");
    if let Some((ordinal, _)) = devices.iter().find(|(_, own)| own.eq_ignore_ascii_case(&bus)) {
        DEVICE_METRICS.xid_errors[&DeviceLabels::of(*ordinal)].inc();
    }
}

/// Told of the driver's errors; `None` where the library cannot.
fn registered<'n>(nvml: &'n Nvml, devices: &[(u32, String)]) -> Option<EventSet<'n>> {
    let mut events = nvml.create_event_set().ok()?;
    for (_, bus) in devices {
        let device = nvml.device_by_pci_bus_id(bus.as_str()).ok()?;
        events = device.register_events(EventTypes::CRITICAL_XID_ERROR, events).ok()?;
    }
    Some(events)
}

fn look(nvml: &Nvml, ordinal: u32, bus: &str) -> Result<(), NvmlError> {
    let device = nvml.device_by_pci_bus_id(bus)?;
    let (labels, metrics) = (DeviceLabels::of(ordinal), &DEVICE_METRICS);
    metrics.memory_used[&labels].set(device.memory_info()?.used);
    metrics.temperature[&labels].set(f64::from(device.temperature(TemperatureSensor::Gpu)?));
    // The library tells milliwatts.
    metrics.power_watts[&labels].set(f64::from(device.power_usage()?) / 1e3);
    Ok(())
}
