//! A link with delay, loss and a rate between two TUN devices, for `tools/bench far`: packets are passed on one by one, no
//! connection ever ends here.
//!
//!     relay DELAY_MS LOSS_PERMILLE MBIT_S QUEUE_KIB SEED
//!
//! Standard input is the server's device, standard output the client's; both are read and written. The delay is that of a
//! round trip and split evenly. Loss, rate and queue hold from server to client; the other way carries little but acknowledgements.

use std::{
    collections::VecDeque,
    env,
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

/// The devices have an MTU of 1500.
const PACKET_BYTES_MAX: usize = 2048;

/// What happens to packets that go one way.
struct Way {
    delay: Duration,
    loss_permille: f64,
    /// `None`: as fast as they come.
    bytes_per_second: Option<f64>,
    /// What would wait behind more bytes than this is dropped.
    queue_bytes: f64,
    random: u64,
}

impl Way {
    /// Evenly spread between 0 and 1: splitmix64.
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Packets on their way, with the time at which they arrive.
#[derive(Default)]
struct Air {
    packets: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    more: Condvar,
}

/// Takes packets from a device, and loses or delays them.
fn take(mut device: File, mut way: Way, air: &Air) -> io::Result<()> {
    let mut packet = [0; PACKET_BYTES_MAX];
    let mut sent_until = Instant::now();
    loop {
        let length = device.read(&mut packet)?;
        let now = Instant::now();
        sent_until = sent_until.max(now);
        if let Some(rate) = way.bytes_per_second {
            if (sent_until - now).as_secs_f64() * rate > way.queue_bytes {
                continue;
            }
            sent_until += Duration::from_secs_f64(length as f64 / rate);
        }
        if way.random() * 1000.0 < way.loss_permille {
            continue;
        }
        let mut packets = air.packets.lock().expect("nobody panics");
        packets.push_back((sent_until + way.delay, packet[..length].to_vec()));
        if packets.len() == 1 {
            air.more.notify_one();
        }
    }
}

/// Hands packets to a device when their time has come.
fn give(mut device: File, air: &Air) -> io::Result<()> {
    let mut due = VecDeque::new();
    loop {
        let mut packets = air.packets.lock().expect("nobody panics");
        while packets.is_empty() {
            packets = air.more.wait(packets).expect("nobody panics");
        }
        let (now, first) = (Instant::now(), packets[0].0);
        if first > now {
            drop(packets);
            thread::sleep(first - now);
            continue;
        }
        while packets.front().is_some_and(|(time, _)| *time <= now) {
            due.extend(packets.pop_front());
        }
        drop(packets);
        for (_, packet) in due.drain(..) {
            // A device refuses packets while it is down; such a packet is lost like any other.
            let _ = device.write(&packet);
        }
    }
}

fn main() -> io::Result<()> {
    let numbers: Vec<f64> = env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let [delay_ms, loss_permille, mbit_s, queue_kib, seed] = numbers[..] else {
        return Err(io::Error::other(
            "usage: relay DELAY_MS LOSS_PERMILLE MBIT_S QUEUE_KIB SEED",
        ));
    };
    let server = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let client = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let delay = Duration::from_secs_f64(delay_ms / 2000.0);
    let down = Way {
        delay,
        loss_permille,
        bytes_per_second: Some(mbit_s * 125_000.0),
        queue_bytes: queue_kib * 1024.0,
        random: seed as u64,
    };
    let up = Way {
        delay,
        loss_permille: 0.0,
        bytes_per_second: None,
        queue_bytes: 0.0,
        random: 0,
    };
    let mut threads = Vec::new();
    for (from, to, way) in [(&server, &client, down), (&client, &server, up)] {
        let (air, from, to) = (Arc::new(Air::default()), from.try_clone()?, to.try_clone()?);
        let shared = air.clone();
        threads.push(thread::spawn(move || take(from, way, &shared)));
        threads.push(thread::spawn(move || give(to, &air)));
    }
    for thread in threads {
        thread.join().expect("nobody panics")?;
    }
    Ok(())
}
