//! Finds or builds the programs of the local federation: Kubernetes' control plane, etcd, the csi-addons pair, and
//! Prometheus where it is asked for.
//!
//! They are built once by Go from three small modules that lie beside this crate and are part of it, into a cache
//! folder named by the modules' contents, so that every clone on a machine finds them. A build happens in a scratch
//! folder that is renamed into place when all of it is there: whatever lies under the final name is whole.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use crate::process::{Launch, last_lines};

/// Building everything takes ten minutes on two slow cores; four times that means that something is stuck.
const BUILD_DEADLINE: Duration = Duration::from_secs(40 * 60);
const BUILD_POLL: Duration = Duration::from_millis(200);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

const CSI_ADDONS_MODULE: &str = "github.com/csi-addons/kubernetes-csi-addons";

/// Where the programs and the manifests of csi-addons lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assets {
    pub kube_apiserver: PathBuf,
    pub kube_controller_manager: PathBuf,
    pub etcd: PathBuf,
    pub csi_addons_manager: PathBuf,
    pub csi_addons_sidecar: PathBuf,
    /// The CustomResourceDefinitions of csi-addons, many documents in one file.
    pub csi_addons_crds: PathBuf,
    /// The service account and the roles of its manager, as its project ships them.
    pub csi_addons_rbac: PathBuf,
}

impl Assets {
    /// Finds the programs, or builds them, which takes about ten minutes; says what it does meanwhile.
    ///
    /// Blocks its thread.
    pub fn ensure(progress: impl Fn(&str)) -> Result<Assets> {
        let cache = cache_folder()?;
        let csi_addons = ensure_module(&cache, &CSI_ADDONS, &progress)?;
        let ready_made = ReadyMade::from_environment();
        if let Some(assets) = ready_made.complete(&csi_addons) {
            return Ok(assets);
        }
        let control_plane = ensure_module(&cache, &CONTROL_PLANE, &progress)?;
        Ok(ready_made.completed_by(&control_plane, &csi_addons))
    }
}

/// Where the programs that watch a federation lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observers {
    pub prometheus: PathBuf,
    pub promtool: PathBuf,
}

impl Observers {
    /// Finds Prometheus, or builds it, which takes about five minutes; says what it does meanwhile.
    ///
    /// Blocks its thread.
    pub fn ensure(progress: impl Fn(&str)) -> Result<Observers> {
        let folder = ensure_module(&cache_folder()?, &PROMETHEUS, &progress)?;
        Ok(Observers { prometheus: folder.join("prometheus"), promtool: folder.join("promtool") })
    }
}

/// Programs that the user has already, in the folder that the ecosystem's tools name by KUBEBUILDER_ASSETS.
#[derive(Debug, Default)]
struct ReadyMade {
    kube_apiserver: Option<PathBuf>,
    kube_controller_manager: Option<PathBuf>,
    etcd: Option<PathBuf>,
}

impl ReadyMade {
    fn from_environment() -> Self {
        std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).map_or_else(ReadyMade::default, |folder| {
            let present = |name: &str| Some(folder.join(name)).filter(|program| program.is_file());
            ReadyMade {
                kube_apiserver: present("kube-apiserver"),
                kube_controller_manager: present("kube-controller-manager"),
                etcd: present("etcd"),
            }
        })
    }

    /// All assets, when nothing of the control plane must be built.
    fn complete(&self, csi_addons: &Path) -> Option<Assets> {
        Some(assemble(
            self.kube_apiserver.clone()?,
            self.kube_controller_manager.clone()?,
            self.etcd.clone()?,
            csi_addons,
        ))
    }

    fn completed_by(self, control_plane: &Path, csi_addons: &Path) -> Assets {
        assemble(
            self.kube_apiserver.unwrap_or_else(|| control_plane.join("kube-apiserver")),
            self.kube_controller_manager.unwrap_or_else(|| control_plane.join("kube-controller-manager")),
            self.etcd.unwrap_or_else(|| control_plane.join("etcd")),
            csi_addons,
        )
    }
}

fn assemble(
    kube_apiserver: PathBuf,
    kube_controller_manager: PathBuf,
    etcd: PathBuf,
    csi_addons: &Path,
) -> Assets {
    Assets {
        kube_apiserver,
        kube_controller_manager,
        etcd,
        csi_addons_manager: csi_addons.join("manager"),
        csi_addons_sidecar: csi_addons.join("sidecar"),
        csi_addons_crds: csi_addons.join("crds.yaml"),
        csi_addons_rbac: csi_addons.join("rbac.yaml"),
    }
}

/// A Go module of ours, carried inside this crate, and what is built from it.
struct Module {
    name: &'static str,
    sources: &'static [(&'static str, &'static str)],
    programs: &'static [Program],
    finish: fn(&Workshop) -> Result<()>,
}

struct Program {
    name: &'static str,
    package: &'static str,
    linker_flags: &'static str,
    /// Further flags of `go build`.
    flags: &'static [&'static str],
    expectation: &'static str,
}

const CONTROL_PLANE: Module = Module {
    name: "control-plane",
    sources: &[
        ("go.mod", include_str!("../control-plane/go.mod")),
        ("go.sum", include_str!("../control-plane/go.sum")),
        ("main.go", include_str!("../control-plane/main.go")),
    ],
    programs: &[
        Program {
            name: "etcd",
            package: "go.etcd.io/etcd/server/v3",
            linker_flags: "-s -w",
            flags: &[],
            expectation: "half a minute",
        },
        Program {
            name: "kubernetes",
            package: ".",
            linker_flags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3",
            flags: &[],
            expectation: "eight minutes on two cores",
        },
    ],
    finish: name_components,
};

const CSI_ADDONS: Module = Module {
    name: "csi-addons",
    sources: &[
        ("go.mod", include_str!("../csi-addons/go.mod")),
        ("go.sum", include_str!("../csi-addons/go.sum")),
    ],
    programs: &[
        Program {
            name: "manager",
            package: "github.com/csi-addons/kubernetes-csi-addons/cmd/manager",
            linker_flags: "-s -w",
            flags: &[],
            expectation: "three minutes on two cores",
        },
        Program {
            name: "sidecar",
            package: "github.com/csi-addons/kubernetes-csi-addons/sidecar",
            linker_flags: "-s -w",
            flags: &[],
            expectation: "half a minute",
        },
    ],
    finish: copy_csi_addons_manifests,
};

/// Without the discovery of targets in clouds and the user interface: neither is looked at here, and both are large.
const PROMETHEUS: Module = Module {
    name: "prometheus",
    sources: &[
        ("go.mod", include_str!("../prometheus/go.mod")),
        ("go.sum", include_str!("../prometheus/go.sum")),
    ],
    programs: &[
        Program {
            name: "prometheus",
            package: "github.com/prometheus/prometheus/cmd/prometheus",
            linker_flags: "-s -w",
            flags: &["-tags=remove_all_sd", "-p=2"],
            expectation: "four minutes on two cores",
        },
        Program {
            name: "promtool",
            package: "github.com/prometheus/prometheus/cmd/promtool",
            linker_flags: "-s -w",
            flags: &["-tags=remove_all_sd", "-p=2"],
            expectation: "a minute",
        },
    ],
    finish: |_| Ok(()),
};

/// The folder with everything that the module yields, built first if need be.
fn ensure_module(cache: &Path, module: &Module, progress: &impl Fn(&str)) -> Result<PathBuf> {
    let folder = cache.join(format!("{}-{}", module.name, fingerprint(module)));
    if folder.is_dir() {
        return Ok(folder);
    }
    let _only_builder = wait_for_lock(&cache.join(format!("{}.lock", module.name)), module.name, progress)?;
    if !folder.is_dir() {
        build(module, &folder, progress).with_context(|| format!("building {}", module.name))?;
    }
    Ok(folder)
}

fn build(module: &Module, folder: &Path, progress: &impl Fn(&str)) -> Result<()> {
    let workshop = Workshop::open(module, folder)?;
    for program in module.programs {
        workshop.build(program, progress)?;
    }
    (module.finish)(&workshop)?;
    workshop.publish(folder)
}

/// A scratch folder beside the final one: the module's sources, what is built of them, and the log of it.
struct Workshop {
    source: PathBuf,
    products: PathBuf,
    log: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Workshop {
    fn open(module: &Module, folder: &Path) -> Result<Workshop> {
        let cache = folder.parent().context("the cache folder has no parent")?;
        let scratch = tempfile::Builder::new()
            .prefix(&format!(".{}-", module.name))
            .tempdir_in(cache)
            .with_context(|| format!("making a scratch folder in {}", cache.display()))?;
        let (source, products) = (scratch.path().join("source"), scratch.path().join("products"));
        create_folder(&source)?;
        create_folder(&products)?;
        for (name, text) in module.sources {
            write(&source.join(name), text)?;
        }
        // The log outlives a failed build, for its reader.
        let log = cache.join(format!("{}-build.log", module.name));
        write(&log, "")?;
        Ok(Workshop { source, products, log, _scratch: scratch })
    }

    fn build(&self, program: &Program, progress: &impl Fn(&str)) -> Result<()> {
        let mut output = OsString::from("-o=");
        output.push(self.products.join(program.name));
        let build = self
            .go(&self.log)
            .arguments(["build", "-mod=readonly", "-trimpath", "-buildvcs=false"])
            .argument(format!("-ldflags={}", program.linker_flags))
            .arguments(program.flags)
            .argument(output)
            .argument(program.package);
        let doing = format!("building {} (about {}, once per machine)", program.name, program.expectation);
        self.run(&build, &doing, progress)
    }

    /// The folder where Go keeps the source of a module that ours requires.
    fn module_folder(&self, module: &str) -> Result<PathBuf> {
        let answer = self.source.join("folder-of-a-module");
        let question = self.go(&answer).arguments(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module]);
        self.run(&question, &format!("finding the files of {module}"), &|_: &str| {})?;
        let folder = PathBuf::from(read(&answer)?.trim_end());
        if folder.is_dir() {
            Ok(folder)
        } else {
            bail!("Go names no folder for {module}, but {}", folder.display())
        }
    }

    fn go(&self, log: &Path) -> Launch {
        Launch::new("go", "go", log)
            .directory(&self.source)
            .environment("CGO_ENABLED", "0")
            // A go.work or a vendor flag of the user is about other modules.
            .environment("GOWORK", "off")
            .environment("GOFLAGS", "")
    }

    fn run(&self, launch: &Launch, doing: &str, progress: &impl Fn(&str)) -> Result<()> {
        progress(doing);
        let started = Instant::now();
        let mut said = started;
        let process = launch.spawn()?;
        loop {
            if let Some(status) = process.exited() {
                return if status.success() { Ok(()) } else { Err(self.failure(doing, &status.to_string())) };
            }
            if started.elapsed() > BUILD_DEADLINE {
                return Err(self.failure(doing, &format!("no end after {BUILD_DEADLINE:?}")));
            }
            if said.elapsed() >= PROGRESS_EVERY {
                said = Instant::now();
                progress(&format!("{doing}: {} s", started.elapsed().as_secs()));
            }
            sleep(BUILD_POLL);
        }
    }

    fn failure(&self, doing: &str, outcome: &str) -> anyhow::Error {
        anyhow!(
            "{doing} failed ({outcome}). Go 1.26 or newer must be installed as `go` (or be able to fetch itself: GOTOOLCHAIN=auto), and its module proxy must be reachable. \
             The end of {}:\n{}",
            self.log.display(),
            last_lines(&self.log, 12)
        )
    }

    /// Moves the products to their final name, in one step.
    fn publish(self, folder: &Path) -> Result<()> {
        fs::rename(&self.products, folder)
            .with_context(|| format!("moving what was built to {}", folder.display()))
    }
}

/// One binary holds both components, and goes by the name it is called.
fn name_components(workshop: &Workshop) -> Result<()> {
    for component in ["kube-apiserver", "kube-controller-manager"] {
        symlink("kubernetes", workshop.products.join(component))
            .with_context(|| format!("linking {component} to the Kubernetes binary"))?;
    }
    Ok(())
}

/// The manifests are data of the csi-addons module, in the folder where Go keeps it.
fn copy_csi_addons_manifests(workshop: &Workshop) -> Result<()> {
    let module = workshop.module_folder(CSI_ADDONS_MODULE)?;
    let definitions = module.join("config/crd/bases");
    write(&workshop.products.join("crds.yaml"), &join_manifests(&definitions)?)?;
    let rbac = read(&module.join("deploy/controller/rbac.yaml"))?;
    write(&workshop.products.join("rbac.yaml"), &rbac)
}

fn join_manifests(folder: &Path) -> Result<String> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<PathBuf>>>()
        .with_context(|| format!("listing {}", folder.display()))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let documents = files.iter().map(|file| read(file)).collect::<Result<Vec<String>>>()?;
    Ok(documents.join("\n---\n"))
}

/// Names the folder by all that decides what is built.
fn fingerprint(module: &Module) -> String {
    let mut digest = Sha256::new();
    let sources = module.sources.iter().flat_map(|(name, text)| [*name, *text]);
    let programs =
        module.programs.iter().flat_map(|program| [program.name, program.package, program.linker_flags]);
    let flags = module.programs.iter().flat_map(|program| program.flags).copied();
    for part in sources.chain(programs).chain(flags).chain([std::env::consts::OS, std::env::consts::ARCH]) {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// $UNDERSTUDY_CACHE, or `understudy` in the user's cache folder.
fn cache_folder() -> Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = named("UNDERSTUDY_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("understudy")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/understudy")))
        .context("no folder for built programs: set UNDERSTUDY_CACHE or HOME")?;
    create_folder(&folder)?;
    folder.canonicalize().with_context(|| format!("resolving {}", folder.display()))
}

/// Waits for the right to build; the lock ends with the file, also when its holder is killed.
fn wait_for_lock(path: &Path, name: &str, progress: &impl Fn(&str)) -> Result<File> {
    let lock = File::create(path).with_context(|| format!("opening the lock {}", path.display()))?;
    let started = Instant::now();
    let mut said = None::<Instant>;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        if started.elapsed() > BUILD_DEADLINE {
            bail!("another process holds {} for {BUILD_DEADLINE:?}: end it, and start again", path.display());
        }
        if said.is_none_or(|said| said.elapsed() >= PROGRESS_EVERY) {
            said = Some(Instant::now());
            progress(&format!(
                "waiting for another process that builds {name}: {} s",
                started.elapsed().as_secs()
            ));
        }
        sleep(BUILD_POLL);
    }
}

fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_told_is_the_version_built() {
        let told = CONTROL_PLANE
            .programs
            .iter()
            .find_map(|program| program.linker_flags.split("gitVersion=").nth(1));
        let told = told.expect("the linker sets a version");
        let (_, modules) = CONTROL_PLANE.sources[0];
        assert!(
            modules.contains(&format!("k8s.io/kubernetes {told}\n")),
            "go.mod requires another version than {told}"
        );
    }

    #[test]
    fn other_flags_get_another_folder() {
        let programs: &'static [Program] = &[Program {
            name: "prometheus",
            package: "github.com/prometheus/prometheus/cmd/prometheus",
            linker_flags: "-s -w",
            flags: &[],
            expectation: "",
        }];
        let of = |programs| fingerprint(&Module { programs, ..PROMETHEUS });
        assert_ne!(of(programs), of(&PROMETHEUS.programs[..1]));
    }

    #[test]
    fn another_source_gets_another_folder() {
        let changed = Module { sources: &[("go.mod", "module other")], ..CSI_ADDONS };
        assert_ne!(fingerprint(&changed), fingerprint(&CSI_ADDONS));
    }
}
