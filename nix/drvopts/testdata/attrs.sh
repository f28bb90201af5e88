declare _ok1='yes'
declare bf=-2147483648
declare big=-1294967296
declare bigger=-1
declare builder='/bin/sh'
declare edge=2147483647
declare edge2=-2147483648
declare -a elist=()
declare empty=''
declare -A eobj=()
declare fa=
declare huge=-2147483648
declare i=42
declare -a list=(1 'two'  1 '' 2 )
declare m1=-2147483648
declare min=0
declare n=''
declare name='sa'
declare nbf=-2147483648
declare near=0
declare neg=1294967296
declare nhuge=-2147483648
declare nz=0
declare -A obj=([''\''']=''\''' ['b']= ['i']=7 ['n']='' ['x y']='z' )
declare -A outputs=(['lib']='/nix/store/cj3bw73s8zi7gixj6jz2jryqa793gns2-sa-lib' ['out']='/nix/store/71p4svbsmk3bbd0qm49j5zff7ih4d5mh-sa' )
declare single=16777216
declare string='it'\''s "q" \ 
 é $x `y`'
declare system='x86_64-linux'
declare t=1
declare tiny=0
declare whole=2
