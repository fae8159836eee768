use ledger_circuits::*;
use proof_system::*;
#[test]
fn small() {
    let system = LedgerProofSystem::with_params(LedgerParams::default(), keystore::Keystore::new("/tmp/keys".into(), None));
    let batch = proving_model::BatchId { chain_id: 0, number: 1 };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ledger");
    for size in [""] {
    let input = system.read_input(&InputSource { path: root.join(size).join("transfers.csv"), state_path: None }).unwrap();
    let t = std::time::Instant::now();
    if size == "" { system.load_keys(KeyPurpose::Prove, &|_, _, _| ()).unwrap(); 
    system.load_keys(KeyPurpose::Compress, &|_, _, _| ()).unwrap(); }
    eprintln!("keys {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let run = bare::prove_batch(&system, batch, &input.payload, &Uncontrolled).unwrap();
    eprintln!("proved {} circuits in {:?}, {} bytes", run.proven.len(), t.elapsed(), run.final_proof.len());
    let t = std::time::Instant::now();
    let out = system.outputs(batch, &input.payload).unwrap();
    println!("{}", String::from_utf8_lossy(&out[0].content));
    eprintln!("outputs {:?}", t.elapsed());
    let t = std::time::Instant::now();
    system.verify_final(&run.final_proof, &out[0].content).unwrap();
    eprintln!("verified {:?}", t.elapsed());
    }
}
