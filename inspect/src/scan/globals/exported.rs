//! Names that say what a function does, wherever it is imported from: those that Python's own modules export which run code or
//! reach files, processes, the network or any attribute, and words in the names of functions that do.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Of functions: `dir()` of the modules of CPython 3.8 to 3.13, by what they are for.
const FUNCTIONS: &[&str] = &[
    // os
    "abort access chdir chmod chown chroot close closerange confstr copy_file_range cpu_count ctermid device_encoding \
     dup dup2 error eventfd eventfd_read eventfd_write execl execle execlp execlpe execv execve execvp execvpe fchdir \
     fchmod fchown fdatasync fdopen fork forkpty fpathconf fsdecode fsencode fspath fstat fstatvfs fsync ftruncate \
     fwalk get_blocking get_exec_path get_inheritable get_terminal_size getcwd getcwdb getegid getenv getenvb geteuid \
     getgid getgrouplist getgroups getloadavg getlogin getpgid getpgrp getpid getppid getpriority getrandom getresgid \
     getresuid getsid getuid getxattr grantpt initgroups isatty kill killpg lchown link listdir listxattr lockf \
     login_tty lseek lstat major makedev makedirs memfd_create minor mkdir mkfifo mknod nice open openpty pathconf \
     pidfd_open pipe pipe2 popen posix_fadvise posix_fallocate posix_openpt posix_spawn posix_spawnp pread preadv \
     process_cpu_count ptsname putenv pwrite pwritev read readlink readv register_at_fork remove removedirs \
     removexattr rename renames replace rmdir scandir sched_get_priority_max sched_get_priority_min sched_getaffinity \
     sched_getparam sched_getscheduler sched_param sched_rr_get_interval sched_setaffinity sched_setparam \
     sched_setscheduler sched_yield sendfile set_blocking set_inheritable setegid seteuid setgid setgroups setns \
     setpgid setpgrp setpriority setregid setresgid setresuid setreuid setsid setuid setxattr spawnl spawnle spawnlp \
     spawnlpe spawnv spawnve spawnvp spawnvpe splice startfile stat statvfs statvfs_result strerror symlink sync sysconf system \
     tcgetpgrp tcsetpgrp terminal_size timerfd_create timerfd_gettime timerfd_gettime_ns timerfd_settime \
     timerfd_settime_ns times times_result truncate ttyname umask uname uname_result unlink unlockpt unsetenv unshare \
     urandom utime wait wait3 wait4 waitid waitid_result waitpid waitstatus_to_exitcode walk write writev",
    // subprocess
    "call check_call check_output getoutput getstatusoutput list2cmdline run",
    // runpy
    "get_importer read_code run_module run_path",
    // importlib
    "acquire_lock cache_from_source create_dynamic decode_source extend_path find_loader find_module find_spec \
     get_data get_frozen_object get_loader get_magic get_suffixes get_tag import_module init_builtin init_frozen \
     invalidate_caches is_builtin is_frozen is_frozen_package iter_importer_modules iter_importers iter_modules \
     iter_zipimport_modules load_compiled load_dynamic load_module load_package load_source lock_held \
     module_for_loader module_from_spec new_module release_lock reload resolve_name set_loader set_package \
     simplegeneric source_from_cache source_hash spec_from_file_location spec_from_loader walk_packages zipimporter",
    // shutil
    "copy copy2 copyfile copyfileobj copymode copystat copytree disk_usage get_archive_formats get_unpack_formats \
     getgrnam getpwnam ignore_patterns make_archive move register_archive_format register_unpack_format rmtree \
     unpack_archive unregister_archive_format unregister_unpack_format which",
    // urllib
    "addclosehook addinfourl build_opener ftperrors ftpwrapper getproxies getproxies_environment install_opener \
     localhost noheaders parse_http_list parse_keqv_list pathname2url proxy_bypass proxy_bypass_environment quote \
     request_host thishost unquote unquote_to_bytes unwrap url2pathname urlcleanup urljoin urlopen urlparse \
     urlretrieve urlsplit urlunparse",
    // pickle
    "add_extension clear_extension_cache constructor decode_long dump dumps encode_long load loads pack partial \
     pickle pickle_complex pickle_union remove_extension unpack whichmodule",
    // operator
    "add and_ attrgetter concat contains countOf delitem eq floordiv ge getitem gt iadd iand iconcat ifloordiv \
     ilshift imatmul imod imul index indexOf inv invert ior ipow irshift is_ is_not isub itemgetter itruediv ixor le \
     length_hint lshift lt matmul methodcaller mod mul ne neg not_ or_ pos pow rshift setitem sub truediv truth xor",
    // code
    "compile_command interact",
    // builtins
    "aiter all anext any ascii bin breakpoint callable chr classmethod compile copyright credits delattr dir divmod \
     eval exec exit filter format getattr globals hasattr hash help hex id input isinstance issubclass license locals \
     map max memoryview min next oct ord print property quit repr setattr staticmethod sum super type vars",
    // ctypes
    "addressof alignment byref c_bool c_buffer c_byte c_char c_char_p c_double c_float c_int c_int16 c_int32 c_int64 \
     c_int8 c_long c_longdouble c_longlong c_short c_size_t c_ssize_t c_time_t c_ubyte c_uint c_uint16 c_uint32 \
     c_uint64 c_uint8 c_ulong c_ulonglong c_ushort c_void_p c_voidp c_wchar c_wchar_p cast create_string_buffer \
     create_unicode_buffer get_errno memmove memset pointer py_object resize set_errno sizeof string_at wstring_at",
    // functools
    "cache cached_property cmp_to_key get_cache_token lru_cache partialmethod recursive_repr reduce singledispatch \
     singledispatchmethod total_ordering update_wrapper wraps",
    // files
    "adapt ascii_decode ascii_encode backslashreplace_errors bltn_open calc_chksums charmap_build charmap_decode \
     charmap_encode checkcache clearcache complete_statement compress connect crc32 data_filter decode decompress \
     enable_callback_tracebacks enable_shared_cache encode escape escape_decode escape_encode filelineno filename \
     fileno fully_trusted_filter getdecoder getencoder getincrementaldecoder getincrementalencoder getline getlines \
     getreader gettempdir gettempdirb gettempprefix gettempprefixb getwriter glob glob0 glob1 has_magic \
     hook_compressed hook_encoded iglob ignore_errors is_tarfile is_zipfile isfirstline isstdin iterdecode iterencode \
     itn latin_1_decode latin_1_encode lazycache lineno lookup lookup_error main make_encoding_map make_identity_dict \
     mkdtemp mkstemp mktemp mmap namereplace_errors nextfile nti nts open_code raw_unicode_escape_decode \
     raw_unicode_escape_encode readbuffer_encode register register_adapter register_converter register_error \
     replace_errors stn strict_errors tar_filter text_encoding translate unicode_escape_decode unicode_escape_encode \
     unregister updatecache utf_16_be_decode utf_16_be_encode utf_16_decode utf_16_encode utf_16_ex_decode \
     utf_16_le_decode utf_16_le_encode utf_32_be_decode utf_32_be_encode utf_32_decode utf_32_encode utf_32_ex_decode \
     utf_32_le_decode utf_32_le_encode utf_7_decode utf_7_encode utf_8_decode utf_8_encode whichdb write32u \
     xmlcharrefreplace_errors",
    // network
    "cert_time_to_seconds create_connection create_default_context create_server fromfd gaierror \
     get_default_verify_paths get_protocol_name get_server_certificate getaddrinfo getdefaulttimeout getfqdn \
     gethostbyaddr gethostbyname gethostbyname_ex gethostname getnameinfo getprotobyname getservbyname getservbyport \
     has_dualstack_ipv6 herror htonl htons if_indextoname if_nameindex if_nametoindex inet_aton inet_ntoa inet_ntop \
     inet_pton match_hostname ntohl ntohs recv_fds send_fds setdefaulttimeout sethostname socket socket_error \
     socketpair timeout wrap_socket",
    // processes
    "activeCount active_children active_count alarm all_tasks allocate allocate_lock allow_connection_pickling \
     as_completed coroutine create_eager_task_factory create_subprocess_exec create_subprocess_shell create_task \
     currentThread current_process current_task current_thread daemon_threads_allowed default_int_handler \
     eager_task_factory ensure_future excepthook exit_thread freeze_support gather get get_all_start_methods \
     get_child_watcher get_context get_event_loop get_event_loop_policy get_ident get_logger get_native_id \
     get_running_loop get_start_method getitimer getprofile getsignal gettrace interrupt_main iscoroutine \
     iscoroutinefunction isfuture local lock log_to_stderr main_thread master_open new_event_loop open_connection \
     open_new open_new_tab open_unix_connection parent_process parse_args pause pidfd_send_signal pthread_kill \
     pthread_sigmask raise_signal register_X_browsers register_standard_browsers run_coroutine_threadsafe select \
     set_child_watcher set_event_loop set_event_loop_policy set_executable set_forkserver_preload set_start_method \
     set_wakeup_fd setitimer setprofile setprofile_all_threads setraw settrace settrace_all_threads shield \
     siginterrupt signal sigpending sigtimedwait sigwait sigwaitinfo slave_open sleep spawn stack_size \
     start_joinable_thread start_new start_new_thread start_server start_unix_server strsignal struct_siginfo \
     tcgetattr tcsetattr timeout_at to_thread valid_signals wait_for wrap_future",
    // Python
    "abs_paths activate_stack_trampoline addaudithook addpackage addsitedir addsitepackages addusersitepackages audit \
     breakpointhook call_tracing callstats can_colorize check_enableusersite classify_class_attrs cleandoc collect \
     compile_dir compile_file compile_path currentframe deactivate_stack_trampoline debug debug_script debug_src \
     default_timer dictConfig dictConfigClass disable displayhook enable enablerlcompleter exc_info exception \
     execsitecustomize execusercustomize fileConfig finalize find_first_executable_line find_function findsource \
     formatannotation formatannotationrelativeto formatargspec formatargvalues freeze get_annotations \
     get_asyncgen_hooks get_coroutine_origin_tracking_depth get_count get_debug get_freeze_count \
     get_int_max_str_digits get_objects get_original_bases get_referents get_referrers get_stats get_threshold \
     getabsfile getallocatedblocks getargs getargspec getargvalues getasyncgenlocals getasyncgenstate getattr_static \
     getblock getcallargs getcheckinterval getclasstree getclosurevars getcomments getcoroutinelocals \
     getcoroutinestate getdefaultencoding getdlopenflags getdoc getfile getfilesystemencodeerrors \
     getfilesystemencoding getframeinfo getfullargspec getgeneratorlocals getgeneratorstate gethistoryfile \
     getinnerframes getlineno getmembers getmembers_static getmodule getmodulename getmro getouterframes \
     getrecursionlimit getrefcount getsitepackages getsizeof getsource getsourcefile getsourcelines getswitchinterval \
     getunicodeinternedsize getuserbase getusersitepackages getweakrefcount getweakrefs indentsize intern \
     is_finalized is_finalizing is_stack_trampoline_active is_tracked isabstract isasyncgen isasyncgenfunction \
     isawaitable isbuiltin isclass iscode isdatadescriptor isenabled isframe isfunction isgenerator \
     isgeneratorfunction isgetsetdescriptor iskeyword ismemberdescriptor ismethod ismethoddescriptor ismethodwrapper \
     ismodule isroutine istraceback label lasti2lineno listen make_weakref makepath markcoroutinefunction new_class \
     pm post_mortem prepare_class proxy ref register_optionflag register_readline reindent removeduppaths repeat \
     resolve_bases run_docstring_examples runcall runctx runeval script_from_examples set_asyncgen_hooks \
     set_coroutine_origin_tracking_depth set_debug set_int_max_str_digits set_threshold set_trace \
     set_unittest_reportflags setcheckinterval setcopyright setdlopenflags sethelper setquit setrecursionlimit \
     setswitchinterval signature stack stopListening test testfile testmod testsource timeit trace unfreeze \
     unraisablehook valid_ident walktree",
];

/// Of classes.
const CLASSES: &str = "\
     BZ2File BaseManager Client Connection Listener BufferedReader BufferedWriter BuiltinImporter CDLL CFUNCTYPE CellType CodeType CommandCompiler Compile \
     DataSource ExtensionFileLoader FTP FTP_TLS FancyURLopener FileFinder FileHandler FileIO FileSystemLoader FrozenImporter \
     FunctionType GzipFile HTTPConnection HTTPSConnection IMAP4 IMAP4_SSL InteractiveConsole InteractiveInterpreter LZMAFile \
     LambdaType LazyLoader LibraryLoader MagicMock MethodType Mock ModuleSpec ModuleType NamedTemporaryFile OleDLL \
     OpenerDirector PYFUNCTYPE PackageImporter PathFinder Pickler Popen Process ProcessPoolExecutor PyDLL PyZipFile \
     RotatingFileHandler SMTP SMTPHandler SMTP_SSL ServerProxy SocketHandler SourceFileLoader SourcelessFileLoader \
     SpooledTemporaryFile SyncManager TarFile Telnet TemporaryDirectory TemporaryFile TextIOWrapper Thread ThreadPool \
     ThreadPoolExecutor TimedRotatingFileHandler URLopener Unpickler WINFUNCTYPE WinDLL ZipFile";

/// Of functions of other libraries that import, call or evaluate what a text says, and names by which modules are imported.
const OTHERS: &str = "F af build_from_cfg client cloudpickle curl dill get_class get_method get_obj_from_str get_object hydra importer jnp joblib mx \
    nn np numpy pd parse_expr plt requests sh sp tf th torch types";

/// Words of names of functions.
const WORDS: &str = "\
     bash call chmod cmd code command compile copy delete download dump dumps dynamic eval evaluate exec execute fetch file fileobj \
     filename files fopen fork handle http hub import instantiate invoke joblib kill lambdify load loader loads locate mkdir mmap module open package path \
     pickle pickled pipeline plugin popen powershell pretrained process read remote remove rename request requests rmtree run save \
     script send shell socket source spawn subprocess sympify system unlink unpickle url urls wget write yaml";
/// Words that begin so.
const BEGINNINGS: [&str; 9] =
    ["cached", "download", "exec", "import", "popen", "subproc", "system", "unpickl", "urlopen"];

static EXPORTED: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    FUNCTIONS.iter().chain([&CLASSES, &OTHERS]).flat_map(|names| names.split_ascii_whitespace()).collect()
});
static WORD: LazyLock<HashSet<&str>> = LazyLock::new(|| WORDS.split_ascii_whitespace().collect());

/// Whether `name` is that of something which reaches out, whatever module has it.
pub(super) fn reaches_by_name(name: &str) -> bool {
    let bare = name.trim_start_matches('_');
    // A class is a class of the module's own, unless it is called like one of those.
    let is_class = bare.starts_with(|c: char| c.is_ascii_uppercase());
    EXPORTED.contains(name) || EXPORTED.contains(bare) || !is_class && words(bare).any(|word| reaches(&word))
}

fn reaches(word: &str) -> bool {
    WORD.contains(word) || BEGINNINGS.iter().any(|beginning| word.starts_with(beginning))
}

/// The words of a name such as `load_all` or `loadAll`, in lower case.
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_ascii_uppercase() {
            words.push(String::new());
        }
        if c != '_'
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_that_reach_out_are_told_by_their_names() {
        for name in [
            "run",
            "check_call",
            "_load",
            "loadAll",
            "attrgetter",
            "Popen",
            "safe_load",
            "fetch_openml",
            "spawnv",
            "instantiate",
            "instantiate_from_config",
            "get_class",
            "get_method",
            "get_obj_from_str",
            "build_from_cfg",
            "hydra",
            "Client",
            "locate",
            "lambdify",
            "sympify",
            "parse_expr",
            "evaluate",
            "bash",
            "wget",
            "fopen",
            "Process",
            "Thread",
            "np",
            "torch",
            "F",
        ] {
            assert!(reaches_by_name(name), "{name}");
        }
        for name in ["Config", "_Loaded", "PathConfig", "relu", "_make_layers", "RunSettings", "newObj"] {
            assert!(!reaches_by_name(name), "{name}");
        }
    }
}
