/**
 * @file The types of what the hive sends, as far as the page reads it. This module is never loaded. Those
 * that every client reads are in `client.js`.
 *
 * @typedef {import("../client.js").Progress} Progress
 * @typedef {import("../client.js").Failure} Failure
 * @typedef {import("../client.js").Choice} Choice
 * @typedef {import("../client.js").Narration} Narration
 *
 * @typedef {"available"|"downloading"|"incomplete"|"unknown"|"unreadable"|"corrupt"} ModelStatus
 * @typedef {object} Model
 * @property {string} id
 * @property {string} name
 * @property {number} size_bytes
 * @property {string} path
 * @property {string} source
 * @property {string|null} revision
 * @property {string} format
 * @property {string|null} architecture
 * @property {string|null} quantization
 * @property {number|null} parameter_count
 * @property {number|null} context_length
 * @property {string[]} [capabilities]
 * @property {string[]} [engines]
 * @property {string} [engines_detail]
 * @property {EngineAdvice} [engine_advice]
 * @property {boolean} loaded
 * @property {ModelStatus} status
 * @property {string} [status_detail]
 * @property {string} added_at
 * @property {string|null} sha256
 *
 * @typedef {"starting"|"loading"|"ready"|"busy"|"unresponsive"|"stopping"|"crashed"|"stopped"} WorkerStatus
 * @typedef {object} Worker
 * @property {string} worker_id
 * @property {number} pid
 * @property {string} model
 * @property {string} device
 * @property {number|null} port
 * @property {string|null} url
 * @property {string} engine
 * @property {boolean} trial whether it tries that engine
 * @property {WorkerStatus} status
 * @property {string} started_at
 * @property {number} uptime_seconds
 * @property {number} cpu_percent
 * @property {number} rss_bytes
 * @property {number|null} vram_bytes
 * @property {number} slots
 * @property {number} requests
 * @property {number} tokens_generated
 * @property {number|null} queue_ms
 * @property {number|null} time_to_first_token_ms
 * @property {number|null} tokens_per_second
 * @property {number|null} prompt_tokens
 * @property {number|null} cached_tokens
 * @property {string|null} last_exit
 *
 * @typedef {object} DeviceMemory
 * @property {string} device
 * @property {number|null} capacity_bytes
 * @property {number|null} free_bytes
 * @property {number} reserve_bytes
 * @property {number} leased_bytes
 *
 * @typedef {object} Resident
 * @property {number} pid
 * @property {string} model
 * @property {string} device
 * @property {number} held_bytes
 * @property {number} in_flight
 * @property {number} slots
 * @property {string|null} ready_at
 * @property {string|null} last_used_at
 * @property {"idle"|"until_needed"|"pinned"} keep
 * @property {string|null} unload_at
 * @property {string|null} draining why it is to go
 * @property {boolean} outdated whether its settings have changed since it started
 * @property {string} why
 *
 * @typedef {object} ResidentLoad
 * @property {string} job_id
 * @property {string} model
 * @property {"submitted"|"waiting"|"loading"} state
 * @property {string} since
 * @property {string} because
 * @property {string|null} waits_for
 * @property {Progress|null} progress
 * @property {number|null} eta_seconds
 *
 * @typedef {object} WaitingLine
 * @property {string} model
 * @property {number} waiting
 * @property {string} oldest_since
 * @property {string|null} job_id
 * @property {Array<{caller: string, waiting: number}>} callers
 *
 * @typedef {{lease_id: string, device: string, bytes: number, state: "waiting"|"held", holder: string|null,
 *   expires_at: string|null, restores: string[]}} Lease
 *
 * @typedef {object} Residency
 * @property {DeviceMemory[]} memory
 * @property {Resident[]} residents
 * @property {ResidentLoad[]} loads
 * @property {WaitingLine[]} queue
 * @property {number} queue_limit
 * @property {Lease[]} leases
 *
 * @typedef {"queued"|"running"|"succeeded"|"failed"|"cancelled"} JobState
 * @typedef {object} Job
 * @property {string} job_id
 * @property {string} operation
 * @property {"read"|"act"} kind
 * @property {JobState} state
 * @property {string} created_at
 * @property {string|null} started_at
 * @property {string|null} ended_at
 * @property {Record<string, any>} request
 * @property {any} result
 * @property {Failure|null} failure
 * @property {string} sse_url
 * @property {string} [hive] the hive of the fleet that runs it; left out where it is this one
 * @property {{lines: number, kept_as: string}} [journal_damage]
 * @property {string} [message] its last message that the page has received
 * @property {Progress} [progress] its last progress that the page has received
 *
 * @typedef {object} JobEvent
 * @property {"narration"|"result"|"done"|"failed"|"cancelled"} event
 * @property {any} data
 *
 * @typedef {object} Gpu
 * @property {string} id
 * @property {string} name
 * @property {number|null} utilization_percent
 * @property {number} memory_used_bytes
 * @property {number} memory_total_bytes
 * @property {string|null} compute_capability
 * @property {string} driver
 *
 * @typedef {object} System
 * @property {number} cpu_percent
 * @property {number} cpu_count
 * @property {number} ram_used_bytes
 * @property {number} ram_total_bytes
 * @property {number} disk_used_bytes
 * @property {number} disk_total_bytes
 * @property {Gpu[]} gpus
 *
 * @typedef {object} HiveInfo
 * @property {string} id
 * @property {string} hostname
 * @property {number} port
 * @property {string} version
 * @property {{status: string, reason?: string}} health_status
 *
 * @typedef {object} Telemetry
 * @property {string} timestamp
 * @property {string} hive_id
 * @property {HiveInfo} hive_info
 * @property {System} system
 * @property {Array<{pid: number, cpu_pct: number, rss_mb: number, vram_mb: number}>} workers
 * @property {Worker[]} [worker_states]
 *
 * @typedef {object} Plan
 * @property {string} model
 * @property {string} source
 * @property {Array<{name: string, size_bytes: number|null}>} files
 * @property {number|null} total_bytes
 * @property {number|null} transfer_bytes
 * @property {number} free_bytes
 * @property {boolean} fits
 * @property {boolean} already_present
 * @property {boolean|null} gated
 * @property {string|null} architecture
 * @property {string[]} [engines]
 * @property {string} [engines_detail]
 * @property {EngineAdvice} [engine_advice]
 *
 * @typedef {object} LoadPlan
 * @property {string} model
 * @property {Worker|null} worker the worker that already serves the model
 * @property {string} engine
 * @property {string} device
 * @property {string} reason
 * @property {boolean} fits
 * @property {string|null} obstacle why the engine cannot run the model
 * @property {EngineAdvice|null} engine_advice
 * @property {number|null} required_bytes
 * @property {number|null} free_bytes
 * @property {number|null} capacity_bytes
 * @property {number} missing_bytes
 * @property {Array<{name: string, bytes: number}>} parts
 * @property {number} context_length
 * @property {number} slots
 * @property {Array<{pid: number, model: string, status: string, held_bytes: number}>} stoppable_workers
 * @property {Array<{pid: number, name: string|null, held_bytes: number}>} foreign_processes
 * @property {Eviction[]} evictions the workers that would go to make room
 * @property {string|null} waits_for
 * @property {"measured"|"formula"|null} source_of_estimate
 * @property {number|null} formula_bytes
 * @property {number|null} formula_error_bytes how much more was measured than the formula says
 * @property {Share[]} split where its layers would go; empty if all of it is on `device`
 * @property {number|null} slowdown how many times as long a token takes as with all layers on a GPU
 *
 * @typedef {{device: string, layers: number, bytes: number}} Share
 * @typedef {object} Eviction
 * @property {number} pid
 * @property {string} model
 * @property {number} held_bytes
 * @property {number|null} idle_seconds
 * @property {string} reason
 *
 * @typedef {object} ModelSettings
 * @property {string} id
 * @property {string} model
 * @property {string|null} variant
 * @property {Record<string, any>} settings what counts
 * @property {Record<string, "operation"|"file"|"model"|"default">} sources by dotted names of settings
 * @property {Record<string, any>} set what operations have set
 * @property {string[]} variants
 * @property {string[]} shadowed_aliases
 *
 * @typedef {object} Times
 * @property {number|null} queue_ms
 * @property {number|null} load_ms
 * @property {number|null} prompt_ms
 * @property {number|null} generation_ms
 * @property {number|null} other_ms
 * @property {number} total_ms
 * @property {number|null} time_to_first_token_ms
 * @property {number|null} prompt_tokens
 * @property {number|null} cached_tokens
 * @property {number|null} completion_tokens
 * @property {number|null} tokens_per_second
 *
 * @typedef {object} Diagnosis
 * @property {number} requests
 * @property {Times|null} times averages for one request
 * @property {Array<{kind: string, share: number|null, message: string, advice: string}>} findings
 * @property {string[]} unknown
 *
 * @typedef {{worker_id: string, detail: string}} EngineAdvice
 *
 * @typedef {object} EngineOffer
 * @property {string} id
 * @property {string} name
 * @property {string} worker_type
 * @property {string} platform
 * @property {string|null} version
 * @property {number|null} size in bytes, to fetch
 * @property {string[]} devices
 * @property {string[]} architectures
 * @property {boolean} recommended
 * @property {string} reason
 * @property {string|null} from
 * @property {string|null} installed the version that is
 * @property {string|null} problem
 * @property {string|null} asked_at
 *
 * @typedef {object} EngineBuild
 * @property {string} version
 * @property {string|null} reported_version what its program says of itself
 * @property {number} size
 * @property {string} path
 * @property {string} added_at
 * @property {string} from
 * @property {string|null} sha256 of its archive
 * @property {{model: string, prompt_per_second: number, tokens_per_second: number}|null} measured
 *
 * @typedef {object} InstalledEngine
 * @property {string} id
 * @property {string} name
 * @property {string} worker_type
 * @property {string} platform
 * @property {string} version
 * @property {string|null} reported_version what its program says of itself
 * @property {number} size
 * @property {string} path
 * @property {string} added_at
 * @property {string} from
 * @property {string|null} sha256 of its archive
 * @property {{model: string, prompt_per_second: number, tokens_per_second: number}|null} measured
 * @property {EngineBuild|null} previous
 * @property {number} used_seconds
 * @property {number[]} workers process ids
 *
 * @typedef {object} FailedBuild
 * @property {string} id
 * @property {string} version
 * @property {string} from
 * @property {string} failed_at
 * @property {string} reason
 * @property {string} log a path
 *
 * @typedef {object} Device
 * @property {string} id
 * @property {string} name
 * @property {string} device_type
 * @property {number} vram_gb
 * @property {string|null} compute_capability
 *
 * @typedef {object} Capabilities
 * @property {Device[]} devices
 * @property {Array<{
 *   name: string, about: string, devices: string[], version: string|null, build: object|null
 * }>} engines
 * @property {string[]} operations those that the hive offers
 * @property {{name: string, role: Role, operations: string[]}|null} caller null where no token is asked for
 * @property {string} hive_id
 * @property {string} version
 *
 * @typedef {object} FleetHive
 * @property {"reachable"|"unreachable"} presence
 * @property {string} hive its name
 * @property {string} run another one after each start
 * @property {string} version
 * @property {string} hostname
 * @property {string} url
 * @property {string} started_at
 * @property {string} platform
 * @property {string|null} silent_since
 * @property {boolean} lets_in whether it made the fleet, and so lets machines in and out
 * @property {Array<{device: string, capacity_bytes: number, free_bytes: number}>} devices
 * @property {number} models
 * @property {number} workers
 * @property {number} jobs that have not ended
 * @property {"left"|"gone"} [end] how the page saw it go
 *
 * @typedef {object} FleetStatus
 * @property {string|null} fleet
 * @property {string|null} hive
 * @property {string[]} nats
 * @property {boolean} is_in
 * @property {Failure|null} trouble
 * @property {number} unpublished
 * @property {FleetHive[]} hives
 * @property {FleetPlacement[]} places the models that are kept on several hives
 *
 * @typedef {object} FleetPlacement
 * @property {string} model
 * @property {number} copies on how many hives it is to be
 * @property {string[]} hives those that have it
 * @property {Array<Record<"hive"|"job_id", string>>} copying the hives that get it, and by which job
 * @property {string|null} lacking why there are fewer, where no more copies are under way
 *
 * @typedef {object} FleetInvitation
 * @property {string} join the line for the other machine, but for the secret at its end
 * @property {string[]} other_addresses
 * @property {string} expires_at
 *
 * @typedef {"read"|"use"|"manage"} Role
 * @typedef {object} Token
 * @property {string} name
 * @property {Role} role
 * @property {string|null} created_at
 * @property {string|null} expires_at
 * @property {boolean} expired
 * @property {number|null} requests_per_minute
 * @property {number|null} concurrent
 * @property {string[]|null} models null for every model
 * @property {number} uses
 * @property {string|null} last_used_at
 *
 * @typedef {object} UsageSums
 * @property {number} requests
 * @property {number} failed
 * @property {number} refused
 * @property {number} client_gone
 * @property {number} prompt_tokens
 * @property {number} cached_tokens
 * @property {number} completion_tokens
 * @property {number} queue_ms
 * @property {number} total_ms
 *
 * @typedef {object} UsageReport
 * @property {string} since
 * @property {string} until
 * @property {Array<UsageSums & {caller: string, model: string|null}>} usage
 * @property {Array<UsageSums & {date: string}>} days
 * @property {UsageSums} total
 */
export {};
