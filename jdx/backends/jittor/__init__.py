"""The Jittor backend: `backend.JittorBackend` in this process, `worker` in the interpreter that has Jittor."""
