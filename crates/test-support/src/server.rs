//! PostgreSQL servers as others run them: with encryption, a standby, a pooler before them.

use job_store::DatabaseUrl;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::Signal;
use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// How long a server may take to start, stop or promote.
const LIMIT: Duration = Duration::from_secs(60);

/// A server, or what stands before one, in a folder of its own. It ends with this value.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    process: Option<Child>,
    arguments: Vec<String>,
    program: PathBuf,
    /// What ends it at once. PostgreSQL's first process takes the others along on SIGQUIT, and leaves them for a moment when it is killed. A
    /// pooler may have been started with SIGQUIT ignored, as shells start what runs in the background.
    last_signal: Signal,
}

/// An authority and what it signed, as PEM files.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// An authority, and a server's certificate for this name.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn for_name(name: &str) -> Self {
        let folder = own_folder();
        let mut authority = CertificateParams::new([]).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("there is randomness"))
                .expect("the parameters are whole");
        for (file, names) in [("server", vec![name.to_owned()]), ("client", vec!["roundhouse".to_owned()])] {
            let key = KeyPair::generate().expect("there is randomness");
            let mut signed = CertificateParams::new(names.clone()).expect("a name");
            signed.distinguished_name.push(rcgen::DnType::CommonName, names[0].clone());
            let signed = signed.signed_by(&key, &authority).expect("the authority signs");
            write(&folder.path().join(format!("{file}.crt")), &signed.pem());
            write(&folder.path().join(format!("{file}.key")), &key.serialize_pem());
        }
        write(&folder.path().join("authority.crt"), &authority.pem());
        Self { folder }
    }

    /// One of `authority.crt`, `server.crt`, `server.key`, `client.crt`, `client.key`.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

impl Server {
    /// A server that takes connections as these lines of `pg_hba.conf` say, with these settings.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(hba: &str, settings: &[(&str, &str)]) -> Self {
        let folder = own_folder();
        let data = folder.path().join("data");
        run(server_program("initdb")
            .args(["--auth=trust", "--username=roundhouse", "--no-sync", "-D"])
            .arg(&data));
        write(&data.join("pg_hba.conf"), hba);
        Self::over(folder, settings)
    }

    /// A standby of a server.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn standby_of(primary: &Self) -> Self {
        let folder = own_folder();
        let port = primary.port.to_string();
        run(server_program("pg_basebackup")
            .args(["-h", "127.0.0.1", "-U", "roundhouse", "-R", "-X", "stream", "-c", "fast", "-p", &port])
            .arg("-D")
            .arg(folder.path().join("data")));
        Self::over(folder, &[])
    }

    fn over(folder: TempDir, settings: &[(&str, &str)]) -> Self {
        let port = crate::http::free_port();
        let data = folder.path().join("data").display().to_string();
        let mut arguments = vec!["-D".to_owned(), data];
        let common =
            [("port", &*port.to_string()), ("unix_socket_directories", ""), ("fsync", "off")].map(owned);
        for (name, value) in common.into_iter().chain(settings.iter().copied().map(owned)) {
            arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        let mut server = Self {
            folder,
            port,
            process: None,
            arguments,
            program: server_path("postgres"),
            last_signal: Signal::QUIT,
        };
        server.run();
        server
    }

    /// Debian's pgbouncer before a server, which pools like this (`session` or `transaction`).
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[must_use]
    pub fn pooler(server: &Self, mode: &str) -> Self {
        let folder = own_folder();
        let port = crate::http::free_port();
        let file = folder.path().join("pgbouncer.ini");
        write(
            &file,
            &format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 100\nmax_client_conn = 200\n",
                server.port
            ),
        );
        // `any` connects as one user to the server, whom the connection names.
        let text = fs::read_to_string(&file).expect("written above");
        write(&file, &text.replace("host=127.0.0.1", "host=127.0.0.1 user=roundhouse"));
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(PathBuf::from);
        let program = program.into_iter().find(|path| path.exists()).expect("pgbouncer is installed");
        let arguments = vec![file.display().to_string()];
        let mut pooler = Self { folder, port, process: None, arguments, program, last_signal: Signal::KILL };
        pooler.run();
        pooler
    }

    /// Starts it, again after a stop.
    ///
    /// # Panics
    /// When it does not listen in time.
    pub fn run(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).expect("the folder is ours");
        let mut command = Command::new(&self.program);
        let child = of_postgres(&mut command)
            .args(&self.arguments)
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.process = Some(child);
        crate::programs::until("the server is ready", LIMIT, || {
            let log = self.log();
            (log.contains("ready to accept") || log.contains("process up")).then_some(())
        });
    }

    /// Kills it without a word.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = rustix::process::Pid::from_child(&process);
            let _ = rustix::process::kill_process(pid, self.last_signal);
            let _ = process.wait();
        }
    }

    /// Makes a standby the writer.
    ///
    /// # Panics
    /// When it does not become it.
    pub fn promote(&self) {
        run(server_program("pg_ctl").arg("promote").arg("-w").arg("-D").arg(self.folder.path().join("data")));
    }

    /// The URL of a database of this server.
    ///
    /// # Panics
    /// When the name makes no URL.
    #[must_use]
    pub fn url(&self, database: &str) -> DatabaseUrl {
        self.url_with(database, "")
    }

    /// As [`Server::url`], with parameters.
    ///
    /// # Panics
    /// As [`Server::url`].
    #[must_use]
    pub fn url_with(&self, database: &str, parameters: &str) -> DatabaseUrl {
        let url = format!("postgres://roundhouse@127.0.0.1:{}/{database}{parameters}", self.port);
        DatabaseUrl::new(&url).expect("a URL")
    }

    /// What it logged.
    ///
    /// # Panics
    /// When the log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("the log is there")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// The user `postgres`, for root.
fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("there are users");
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("user postgres is there");
    let mut ids = line.split(':').skip(2).map(|id| id.parse().expect("a number"));
    Some((ids.next()?, ids.next()?))
}

fn of_postgres(command: &mut Command) -> &mut Command {
    if let Some((user, group)) = account() {
        command.uid(user).gid(group);
    }
    command.current_dir("/").stdin(Stdio::null())
}

fn own_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("roundhouse-server-").tempdir().expect("a temporary folder");
    give_away(folder.path());
    folder
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the folder takes a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    give_away(path);
}

fn give_away(path: &Path) {
    if let Some((user, group)) = account() {
        chown(path, Some(user), Some(group)).expect("root may");
    }
}

fn server_path(name: &str) -> PathBuf {
    // The other programs lie beside the server's own, and perhaps not beside a link to it.
    let server = embedded_postgres::find_programs().expect("PostgreSQL is installed").folder.join("postgres");
    server.canonicalize().expect("it was found").with_file_name(name)
}

fn server_program(name: &str) -> Command {
    let mut command = Command::new(server_path(name));
    of_postgres(&mut command);
    command
}

fn run(command: &mut Command) {
    let output = command.output();
    let output = output.expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
