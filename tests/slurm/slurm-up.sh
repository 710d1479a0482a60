#!/bin/bash
# Single-node Slurm (Debian slurm 22.05) as root, no systemd, no cgroups, loopback only.
# usage: slurm-up.sh [dir=.slurm-test] [virtual-cpus=8] [virtual-nodes=1]
set -euo pipefail
D=${1:-.slurm-test}; CPUS=${2:-8}; NODES=${3:-1}
export SLURM_CONF=$D/slurm.conf
mkdir -p "$D"/{state,spool,log,run}; chmod 755 "$D"
# --- munge: private key and socket, so nothing in /etc or /run is touched
install -d -m 700 -o munge -g munge "$D/munge"
if [ ! -f "$D/munge/key" ]; then
  dd if=/dev/urandom of="$D/munge/key" bs=1 count=1024 status=none
  chown munge:munge "$D/munge/key"; chmod 400 "$D/munge/key"
fi
install -d -m 755 -o munge -g munge "$D/munge-run"
if ! { [ -f "$D/munge-run/pid" ] && kill -0 "$(cat "$D/munge-run/pid")" 2>/dev/null; }; then
  setpriv --reuid=munge --regid=munge --clear-groups munged \
    --key-file="$D/munge/key" --socket="$D/munge-run/sock" \
    --pid-file="$D/munge-run/pid" --log-file="$D/munge/log" --seed-file="$D/munge/seed"
fi
H=$(hostname -s)
{
cat <<EOF
ClusterName=test
SlurmctldHost=$H(127.0.0.1)
SlurmctldPort=${SLURMCTLD_PORT:-16817}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$D/munge-run/sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoAddrCache,NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,defer=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
Licenses=scratch:1000,cfs:1000
$( [ "${SLURM_ACCT:-0}" = 1 ] && printf "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=localhost\nAccountingStoragePort=16819\nAccountingStoragePass=$D/munge-run/sock" || echo AccountingStorageType=accounting_storage/none )
JobCompType=jobcomp/filetxt
JobCompLoc=$D/log/jobcomp.log
ReturnToService=2
JobRequeue=1
FirstJobId=${SLURM_FIRST_JOB:-$(( (RANDOM<<10) + 1000 ))}
MaxArraySize=10001
MaxJobCount=20000
MinJobAge=3600
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=60
StateSaveLocation=$D/state
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdParameters=config_overrides
EOF
if [ "$NODES" = 1 ]; then cat <<EOF
SlurmdSpoolDir=$D/spool
SlurmdPidFile=$D/run/slurmd.pid
SlurmdLogFile=$D/log/slurmd.log
NodeName=$H NodeAddr=127.0.0.1 Port=${SLURMD_PORT:-16818} CPUs=$CPUS RealMemory=${SLURM_MEM:-8000} Features=cpu State=UNKNOWN
PartitionName=regular Nodes=$H Default=YES MaxTime=12:00:00 State=UP OverSubscribe=NO
PartitionName=xfer Nodes=$H MaxTime=48:00:00 State=UP
EOF
else
for i in $(seq 1 "$NODES"); do
  echo "NodeName=n$i NodeHostname=$H NodeAddr=127.0.0.1 Port=$((${SLURMD_PORT:-16820}+i)) CPUs=$CPUS RealMemory=${SLURM_MEM:-4000} Features=cpu State=UNKNOWN"
done
cat <<EOF
SlurmdSpoolDir=$D/spool/%n
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmdLogFile=$D/log/slurmd.%n.log
PartitionName=regular Nodes=n[1-$NODES] Default=YES MaxTime=12:00:00 State=UP
PartitionName=xfer Nodes=n1 MaxTime=48:00:00 State=UP
EOF
fi
} > "$SLURM_CONF"
chmod 644 "$SLURM_CONF"
slurmctld -c -f "$SLURM_CONF"
if [ "$NODES" = 1 ]; then slurmd -f "$SLURM_CONF"
else for i in $(seq 1 "$NODES"); do mkdir -p "$D/spool/n$i"; slurmd -N n$i -f "$SLURM_CONF"; done; fi
for _ in $(seq 1 100); do
  [ "$(timeout 3 sinfo -h -p regular -o '%T %D' 2>/dev/null | awk '/^(idle|mixed)/{s+=$2}END{print s+0}')" = "$NODES" ] && { echo "export SLURM_CONF=$SLURM_CONF"; exit 0; }
  sleep 0.1
done
echo "slurm not ready" >&2; tail -5 "$D"/log/*.log >&2; exit 1
