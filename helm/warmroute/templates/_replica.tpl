{{/* The pods of a pool. Arguments are dict "root" $ "name" POOL "pool" SETTINGS. */}}

{{- define "warmroute.poolSelector" -}}
{{- include "warmroute.selector" (dict "root" .root "component" (printf "pool-%s" .name)) -}}
{{- end -}}

{{- define "warmroute.servedModel" -}}
{{- .pool.servedModelName | default .pool.model | default "sim" -}}
{{- end -}}

{{/* Arguments of the engine. */}}
{{- define "warmroute.engineArguments" -}}
{{- $host := ternary "::" "0.0.0.0" (eq .root.Values.ipFamily "IPv6") -}}
{{- $model := include "warmroute.servedModel" . -}}
{{- $words := list -}}
{{- if eq .pool.type "simulated" -}}
{{- $words = list "sim" "--host" $host "--port" "8000" "--model" $model -}}
{{- range .pool.adapters -}}
{{- $words = concat $words (list "--lora" .name) -}}
{{- end -}}
{{- if .pool.apiKey.existingSecret -}}
{{- $words = concat $words (list "--api-key" "$(VLLM_API_KEY)") -}}
{{- end -}}
{{- else -}}
{{- $words = list "serve" .pool.model "--host" $host "--port" "8000" -}}
{{- if ne $model .pool.model -}}
{{- $words = concat $words (list "--served-model-name" $model) -}}
{{- end -}}
{{- if gt (int .pool.gpus) 1 -}}
{{- $words = concat $words (list "--tensor-parallel-size" (int .pool.gpus | toString)) -}}
{{- end -}}
{{- $words = concat $words (list "--enable-prefix-caching" "--enable-prompt-tokens-details" "--enable-request-id-headers" "--shutdown-timeout" (int .pool.drainSeconds | toString)) -}}
{{- with .pool.adapters -}}
{{- $words = concat $words (list "--enable-lora" "--lora-modules") -}}
{{- range . -}}
{{- $words = append $words (printf "%s=%s" .name .path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml (concat $words .pool.args) -}}
{{- end -}}

{{/* The engine's key, as engine and agent read it. */}}
{{- define "warmroute.engineKey" -}}
{{- with .apiKey -}}
{{- if .existingSecret -}}
- name: VLLM_API_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "warmroute.engine" -}}
{{- $pool := .pool -}}
- name: engine
  {{- if eq $pool.type "simulated" }}
  image: {{ include "warmroute.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [warmroute-replica]
  {{- else }}
  image: {{ include "warmroute.imageName" (dict "image" $pool.image "tag" "" "what" (printf "pools.%s.image" .name)) }}
  imagePullPolicy: {{ $pool.image.pullPolicy }}
  command: [vllm]
  {{- end }}
  args: {{- include "warmroute.engineArguments" . | nindent 4 }}
  ports:
    - {name: http, containerPort: 8000}
  env:
    {{- if eq $pool.type "vllm" }}
    # The cache is the only place that it may write to, whoever runs it; libraries ask for a user's name.
    - {name: HOME, value: /cache}
    - {name: USER, value: vllm}
    - {name: HF_HOME, value: /cache/huggingface}
    - {name: VLLM_CACHE_ROOT, value: /cache/vllm}
    # Longer than the routers keep idle connections, so that none is closed while a request is on its way.
    - {name: VLLM_HTTP_TIMEOUT_KEEP_ALIVE, value: "75"}
    {{- with $pool.huggingFaceToken.existingSecret }}
    - name: HF_TOKEN
      valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $pool.huggingFaceToken.key }}}}
    {{- end }}
    {{- else }}
    - {name: HOME, value: /tmp}
    {{- end }}
    {{- with include "warmroute.engineKey" $pool }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $pool.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $pool.extraEnvFrom }}
  envFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
  startupProbe:
    httpGet: {path: /health, port: http}
    periodSeconds: {{ ternary 10 1 (eq $pool.type "vllm") }}
    timeoutSeconds: 5
    failureThreshold: {{ ternary (div (int $pool.startupSeconds) 10) (int $pool.startupSeconds) (eq $pool.type "vllm") }}
  readinessProbe:
    httpGet: {path: /health, port: http}
    periodSeconds: {{ ternary 5 1 (eq $pool.type "vllm") }}
    timeoutSeconds: 5
    failureThreshold: 2
  # An engine that computes long prompts is slow to answer, and restarting it would lose its cache.
  livenessProbe:
    httpGet: {path: /health, port: http}
    periodSeconds: 20
    timeoutSeconds: 10
    failureThreshold: 6
  lifecycle:
    preStop:
      {{- if include "warmroute.hasAgent" . }}
      # The agent withdraws the replica and answers when the engine is idle.
      httpGet: {path: /prestop, port: 8011}
      {{- else }}
      {{- include "warmroute.sleep" (dict "root" .root "seconds" $pool.preStopSeconds) | nindent 6 }}
      {{- end }}
  {{- $resources := deepCopy $pool.resources }}
  {{- if eq $pool.type "simulated" }}
  {{- if not $resources }}
  {{- $resources = dict "requests" (dict "cpu" "500m" "memory" "128Mi") "limits" (dict "memory" "512Mi") }}
  {{- end }}
  {{- else if gt (int $pool.gpus) 0 }}
  {{- $gpus := dict $pool.gpuResource (int $pool.gpus) }}
  {{- $_ := set $resources "limits" (merge $gpus (get $resources "limits" | default dict)) }}
  {{- $_ := set $resources "requests" (merge $gpus (get $resources "requests" | default dict)) }}
  {{- end }}
  {{- with $resources }}
  resources: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $security := deepCopy $pool.containerSecurityContext }}
  {{- if and (eq $pool.type "simulated") (not (hasKey $security "readOnlyRootFilesystem")) }}
  {{- $_ := set $security "readOnlyRootFilesystem" true }}
  {{- end }}
  securityContext: {{- toYaml $security | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    {{- if eq $pool.type "vllm" }}
    - {name: shm, mountPath: /dev/shm}
    - {name: cache, mountPath: /cache}
    {{- end }}
    {{- with $pool.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* The agent; as an init container that stays ("native sidecar") where `sidecar` is true. */}}
{{- define "warmroute.agent" -}}
- name: agent
  image: {{ include "warmroute.imageName" (dict "image" (mergeOverwrite (deepCopy .root.Values.image) (ternary (dict "tag" .pool.agent.imageTag "digest" "") dict (ne .pool.agent.imageTag ""))) "tag" .root.Chart.AppVersion "what" "agent.image") }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [warmroute-replica]
  args: {{- toYaml (concat (list "agent") .pool.agent.args) | nindent 4 }}
  {{- if .sidecar }}
  # It starts before the engine and ends after it.
  restartPolicy: Always
  {{- end }}
  ports:
    - {name: agent, containerPort: 8011}
  env:
    - name: POD_IP
      valueFrom: {fieldRef: {fieldPath: status.podIP}}
    - name: WARMROUTE_AGENT_ID
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    {{- with include "warmroute.redisEnv" (dict "root" .root "name" "WARMROUTE_AGENT_REDIS") | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    - {name: WARMROUTE_AGENT_NAMESPACE, value: {{ .root.Values.redis.namespace | quote }}}
    - {name: WARMROUTE_AGENT_ENGINE, value: {{ printf "http://%s:8000" (ternary "[::1]" "127.0.0.1" (eq .root.Values.ipFamily "IPv6")) | quote }}}
    - {name: WARMROUTE_AGENT_ADVERTISE, value: {{ printf "http://%s:8000" (ternary "[$(POD_IP)]" "$(POD_IP)" (eq .root.Values.ipFamily "IPv6")) | quote }}}
    - {name: WARMROUTE_AGENT_LISTEN, value: {{ include "warmroute.listen" (dict "root" .root "port" 8011) | quote }}}
    - {name: WARMROUTE_AGENT_DRAIN_GRACE, value: {{ int .pool.drainSeconds | quote }}}
    - {name: WARMROUTE_AGENT_LABEL, value: {{ printf "pool=%s" .name | quote }}}
    - {name: HOME, value: /tmp}
    {{- with include "warmroute.engineKey" .pool }}
    {{- . | nindent 4 }}
    {{- end }}
  readinessProbe:
    httpGet: {path: /readyz, port: agent}
    periodSeconds: 2
    timeoutSeconds: 2
    failureThreshold: 2
  livenessProbe:
    httpGet: {path: /healthz, port: agent}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  {{- if not .sidecar }}
  # It is told to end at the same time as the engine, and stays until that is idle.
  lifecycle:
    preStop:
      httpGet: {path: /prestop, port: agent}
  {{- end }}
  resources: {{- toYaml .pool.agent.resources | nindent 4 }}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    capabilities: {drop: [ALL]}
  volumeMounts:
    - {name: agent-tmp, mountPath: /tmp}
    {{- if include "warmroute.redisHasTls" .root }}
    {{- include "warmroute.redisTlsMount" .root | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Metadata and spec of a replica's pod. */}}
{{- define "warmroute.replicaPod" -}}
{{- $pool := .pool -}}
{{- $agent := include "warmroute.hasAgent" . -}}
{{- $sidecar := and $agent (semverCompare ">=1.29.0-0" .root.Capabilities.KubeVersion.Version) -}}
metadata:
  labels:
    {{- include "warmroute.podLabels" (dict "root" .root "component" (printf "pool-%s" .name)) | nindent 4 }}
    {{- with $pool.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $pool.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  # Until it is withdrawn, for its requests to finish, and for the engine to end.
  terminationGracePeriodSeconds: {{ include "warmroute.replicaGrace" . }}
  {{- with $pool.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $pool.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with include "warmroute.pullSecrets" .root }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- $security := deepCopy $pool.podSecurityContext }}
  {{- if eq $pool.type "simulated" }}
  {{- $security = mergeOverwrite $security (dict "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001) }}
  {{- end }}
  securityContext: {{- toYaml $security | nindent 4 }}
  {{- with $pool.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- include "warmroute.spread" (dict "given" $pool.topologySpreadConstraints "selector" (include "warmroute.poolSelector" .)) | nindent 4 }}
  {{- with $pool.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pool.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if or $sidecar $pool.initContainers }}
  initContainers:
    {{- with $pool.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if $sidecar }}
    {{- include "warmroute.agent" (merge (dict "sidecar" true) .) | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    {{- include "warmroute.engine" . | nindent 4 }}
    {{- if and $agent (not $sidecar) }}
    {{- include "warmroute.agent" (merge (dict "sidecar" false) .) | nindent 4 }}
    {{- end }}
    {{- with $pool.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- if eq $pool.type "vllm" }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $pool.sharedMemory }}}
    {{- if eq $pool.cache.type "ephemeral" }}
    - name: cache
      emptyDir: {sizeLimit: {{ $pool.cache.size }}}
    {{- else if eq $pool.cache.type "existing" }}
    - name: cache
      persistentVolumeClaim: {claimName: {{ $pool.cache.existingClaim }}}
    {{- end }}
    {{- end }}
    {{- if $agent }}
    - name: agent-tmp
      emptyDir: {medium: Memory, sizeLimit: 16Mi}
    {{- if include "warmroute.redisHasTls" .root }}
    {{- include "warmroute.redisTlsVolume" .root | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- with $pool.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Seconds from the order to end until a replica is killed: with an agent the hook itself waits for the requests. */}}
{{- define "warmroute.replicaGrace" -}}
{{- add (ternary 0 (int .pool.preStopSeconds) (eq (include "warmroute.hasAgent" .) "true")) (int .pool.drainSeconds) 30 -}}
{{- end -}}
